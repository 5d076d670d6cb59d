/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Freezes the guest's filesystems for the call that takes the snapshot and thaws them whatever
 * happens. A watchdog thread thaws them when the freeze limit expires. */
#include "snapshot/libvirt/session.h"
#include "util/interrupt.h"

/* Seconds: a thaw waits for the freeze before it. */
#define THAW_TIMEOUT 15

static bool ask_time(FlLibvirtCall *call)
{
    long long seconds;
    unsigned nanoseconds;

    return virDomainGetTime(call->domain, &seconds, &nanoseconds, 0) == 0;
}

/* Both calls: CALL->value is the number of filesystems. */
static bool ask_freeze(FlLibvirtCall *call)
{
    return (call->value = virDomainFSFreeze(call->domain, NULL, 0, 0)) >= 0;
}

static bool ask_thaw(FlLibvirtCall *call)
{
    return (call->value = virDomainFSThaw(call->domain, NULL, 0, 0)) >= 0;
}

/* CALL->number is in seconds, or one of libvirt's special values. */
static bool ask_agent_timeout(FlLibvirtCall *call)
{
    return virDomainAgentSetResponseTimeout(call->domain, (int)call->number, 0) == 0;
}

static void set_agent_timeout(FlLibvirtSession *session, int seconds)
{
    g_autoptr(FlLibvirtCall) call = fl_libvirt_call_new(ask_agent_timeout, NULL, NULL);

    call->number = (unsigned)seconds;
    fl_libvirt_ask(session, call);
}

static unsigned freeze_limit(const FlLibvirtSession *session)
{
    return fl_snapshot_freeze_limit(session->backup.options);
}

static gpointer watchdog(gpointer data)
{
    FlLibvirtSession *session = data;
    gint64 end = session->frozen_since + (gint64)freeze_limit(session) * 1000;

    g_mutex_lock(&session->lock);
    while (session->freezing)
        g_cond_wait(&session->cond, &session->lock);
    while (!session->thawing && g_cond_wait_until(&session->cond, &session->lock, end))
        continue;
    session->timed_out = !session->thawing;
    g_mutex_unlock(&session->lock);
    if (session->timed_out)
        fl_libvirt_call_run(session->thaw, 2 * THAW_TIMEOUT * 1000);
    return NULL;
}

/* Called before anything is frozen: without the watchdog nothing may be. */
static bool start_watchdog(FlLibvirtSession *session, GError **error)
{
    g_autoptr(GError) failure = NULL;

    /* The session may reconnect meanwhile, so the watchdog's call holds its own references. */
    session->thaw = fl_libvirt_call_new(ask_thaw, NULL, NULL);
    virDomainRef(session->domain);
    session->thaw->domain = session->domain;
    session->freezing = true;
    session->watchdog = fl_thread_start("fleecefs-thaw", watchdog, session, &failure);
    if (session->watchdog != NULL)
        return true;
    g_clear_pointer(&session->thaw, fl_libvirt_call_unref);
    return fl_fail(error, "the guest is not frozen, because no thread can limit the time: %s",
                   failure->message);
}

static void let_watchdog_count(FlLibvirtSession *session)
{
    g_mutex_lock(&session->lock);
    session->freezing = false;
    g_cond_signal(&session->cond);
    g_mutex_unlock(&session->lock);
}

/* Stops the watchdog. Returns whether it had nothing to do. */
static bool stop_watchdog(FlLibvirtSession *session)
{
    if (session->watchdog == NULL)
        return true;
    g_mutex_lock(&session->lock);
    session->thawing = true;
    g_cond_signal(&session->cond);
    g_mutex_unlock(&session->lock);
    g_thread_join(g_steal_pointer(&session->watchdog));
    g_clear_pointer(&session->thaw, fl_libvirt_call_unref);
    return !session->timed_out;
}

/* Records that nothing was frozen. Returns false. */
static bool not_frozen(FlLibvirtSession *session)
{
    fl_journal_write_thawed(session->backup.journal,
                            NULL); /* only saves a thaw; errors do not matter */
    return false;
}

/* Asks the agent to freeze if it answers; if it does not, nothing was frozen. */
static bool freeze(FlLibvirtSession *session, GError **error)
{
    g_autoptr(FlLibvirtCall) time = fl_libvirt_call_new(ask_time, NULL, NULL);
    g_autoptr(FlLibvirtCall) freeze = fl_libvirt_call_new(ask_freeze, NULL, NULL);
    bool frozen;

    if (fl_libvirt_state(session) != FL_LIBVIRT_RUNS) {
        fl_fail(error, "the guest is paused and cannot be frozen; resume it with virsh resume, or "
                       "continue without freezing with -o agent_optional");
        return not_frozen(session);
    }
    time->extra = freeze->extra = freeze_limit(session);
    if (!fl_libvirt_ask_once(session, time)) {
        fl_libvirt_fail(error, time,
                        "the guest agent does not answer (-o agent_optional continues without it)");
        return not_frozen(session);
    }
    session->frozen_since = g_get_monotonic_time();
    if (!start_watchdog(session, error)) {
        session->frozen_since = 0;
        return not_frozen(session);
    }
    frozen = fl_libvirt_ask_once(session, freeze);
    let_watchdog_count(session);
    if (!frozen)
        return fl_libvirt_fail(error, freeze, "the guest cannot be frozen");
    session->frozen = (int)freeze->value;
    return true;
}

bool fl_libvirt_freeze(FlSnapshot *backup, GError **error)
{
    FlLibvirtSession *session = (FlLibvirtSession *)backup;
    const FlSnapshotOptions *options = session->backup.options;
    const FlJournalEntry *entry = fl_journal_entry(session->backup.journal);
    g_autoptr(GError) failure = NULL;

    if (entry == NULL || entry->agent == NULL)
        return true;
    set_agent_timeout(session, (int)(freeze_limit(session) / 1000));
    if (freeze(session, &failure))
        return true;
    if (!options->agent_optional) {
        g_propagate_error(error, g_steal_pointer(&failure));
        return false;
    }
    fl_snapshot_note(&session->backup, "the snapshot is only crash-consistent: %s",
                     failure->message);
    return fl_libvirt_thaw(backup, error);
}

/* Whether the guest stayed frozen: Windows ends a freeze by itself, and the watchdog ends any. */
static bool check_lasted(FlLibvirtSession *session, bool lasted, GError **error)
{
    static const char what[] = "the guest did not stay frozen until the snapshot was taken";

    if (lasted)
        return true;
    if (!session->backup.options->agent_optional)
        return fl_fail(error, "%s", what);
    fl_snapshot_note(&session->backup, "%s; the snapshot is only crash-consistent", what);
    return true;
}

bool fl_libvirt_thaw(FlSnapshot *backup, GError **error)
{
    FlLibvirtSession *session = (FlLibvirtSession *)backup;
    const FlJournalEntry *entry = fl_journal_entry(session->backup.journal);
    bool ours = session->frozen_since != 0;
    bool lasted = stop_watchdog(session);
    g_autoptr(FlLibvirtCall) thaw = fl_libvirt_call_new(ask_thaw, NULL, NULL);
    bool thawed;

    if (entry == NULL || entry->agent == NULL)
        return true;
    /* A guest started since then is not frozen. */
    if (!ours && fl_libvirt_active(session, NULL) == 0)
        return fl_journal_write_thawed(session->backup.journal, error);

    set_agent_timeout(session, THAW_TIMEOUT);
    thaw->extra = THAW_TIMEOUT * 1000;
    thawed = fl_libvirt_ask(session, thaw);
    if (!thawed) {
        session->backup.left = true;
        fl_libvirt_fail(error, thaw, "the guest may still be frozen; --recover thaws it");
    }
    set_agent_timeout(session, VIR_DOMAIN_AGENT_RESPONSE_TIMEOUT_BLOCK);
    if (!thawed)
        return false;

    if (!ours)
        fl_snapshot_report(&session->backup, "thawed the guest");
    else
        session->backup.times.frozen =
            (uint64_t)(g_get_monotonic_time() - session->frozen_since) * 1000;
    session->frozen_since = 0;
    lasted = lasted && (thaw->value > 0 || thaw->repeated || session->frozen <= 0);
    lasted = session->backup.state != FL_STATE_THAWING || check_lasted(session, lasted, error);
    return fl_journal_write_thawed(session->backup.journal, lasted ? error : NULL) && lasted;
}
