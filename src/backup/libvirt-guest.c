/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The guest's filesystems: frozen for the call that takes the snapshot, and thawed whatever
 * happens, also by a thread that waits for the time that the guest may stay frozen. */
#include "backup/libvirt-session.h"

#include <libvirt/virterror.h>

/* Seconds: a thaw waits for the freeze before it. */
#define THAW_TIMEOUT 15

static gpointer watchdog(gpointer data)
{
    FlLibvirtSession *session = data;
    virDomainPtr domain = session->domain;
    gint64 end =
        session->frozen_since + (gint64)fl_backup_freeze_limit(session->backup.options) * 1000;

    g_mutex_lock(&session->lock);
    while (!session->thawing && g_cond_wait_until(&session->cond, &session->lock, end))
        continue;
    session->barked = !session->thawing;
    g_mutex_unlock(&session->lock);
    if (session->barked)
        virDomainFSThaw(domain, NULL, 0, 0);
    return NULL;
}

/* Whether the watchdog had nothing to do. */
static bool stop_watchdog(FlLibvirtSession *session)
{
    if (session->watchdog == NULL)
        return true;
    g_mutex_lock(&session->lock);
    session->thawing = true;
    g_cond_signal(&session->cond);
    g_mutex_unlock(&session->lock);
    g_thread_join(g_steal_pointer(&session->watchdog));
    return !session->barked;
}

static void set_agent_timeout(FlLibvirtSession *session, int seconds)
{
    virDomainAgentSetResponseTimeout(session->domain, seconds, 0);
}

/* An agent that answers is asked to freeze; one that does not has frozen nothing. */
static bool freeze(FlLibvirtSession *session, GError **error)
{
    long long seconds;
    unsigned nanoseconds;

    if (virDomainGetTime(session->domain, &seconds, &nanoseconds, 0) < 0) {
        fl_libvirt_fail(error,
                        "the guest's agent does not answer (-o agent_optional goes on without)");
        fl_journal_write_thawed(session->journal, NULL); /* only spares a thaw */
        return false;
    }
    session->frozen_since = g_get_monotonic_time();
    session->frozen = virDomainFSFreeze(session->domain, NULL, 0, 0);
    return session->frozen >= 0 || fl_libvirt_fail(error, "the guest cannot be frozen");
}

bool fl_libvirt_freeze(FlLibvirtSession *session, GError **error)
{
    const FlBackupOptions *options = session->backup.options;
    const FlJournalEntry *entry = fl_journal_entry(session->journal);
    g_autoptr(GError) failure = NULL;

    if (entry == NULL || entry->agent == NULL)
        return true;
    set_agent_timeout(session, (int)(fl_backup_freeze_limit(options) / 1000));
    if (freeze(session, &failure)) {
        session->watchdog = g_thread_new("fleecefs-thaw", watchdog, session);
        return true;
    }
    if (!options->agent_optional) {
        g_propagate_error(error, g_steal_pointer(&failure));
        return false;
    }
    fl_backup_note(&session->backup, "the snapshot is like after a power cut: %s",
                   failure->message);
    return fl_libvirt_thaw(session, error);
}

/* Whether the freeze lasted: Windows ends one by itself, the watchdog any. */
static bool check_lasted(FlLibvirtSession *session, bool lasted, GError **error)
{
    static const char what[] = "the guest did not stay frozen until the snapshot was taken";

    if (lasted)
        return true;
    if (!session->backup.options->agent_optional)
        return fl_fail(error, "%s", what);
    fl_backup_note(&session->backup, "%s, which is like after a power cut", what);
    return true;
}

bool fl_libvirt_thaw(FlLibvirtSession *session, GError **error)
{
    const FlJournalEntry *entry = fl_journal_entry(session->journal);
    bool ours = session->frozen_since != 0;
    bool lasted = stop_watchdog(session);
    int thawed;

    if (entry == NULL || entry->agent == NULL)
        return true;
    /* A guest that was started since is not frozen. */
    if (!ours && fl_libvirt_active(session, NULL) == 0)
        return fl_journal_write_thawed(session->journal, error);

    set_agent_timeout(session, THAW_TIMEOUT);
    do
        thawed = virDomainFSThaw(session->domain, NULL, 0, 0);
    while (thawed < 0 && fl_libvirt_again(session, fl_libvirt_patience(session)));
    if (thawed < 0) {
        session->left = true;
        fl_libvirt_fail(error, "the guest may still be frozen, --recover thaws it");
    }
    set_agent_timeout(session, VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK);
    if (thawed < 0)
        return false;

    if (!ours)
        fl_backup_report(&session->backup, "thawed the guest");
    else
        session->backup.times.frozen =
            (uint64_t)(g_get_monotonic_time() - session->frozen_since) * 1000;
    session->frozen_since = 0;
    if (session->backup.state == FL_STATE_THAWING)
        lasted = check_lasted(session, lasted && (thawed > 0 || session->frozen <= 0), error);
    else
        lasted = true;
    return fl_journal_write_thawed(session->journal, lasted ? error : NULL) && lasted;
}
