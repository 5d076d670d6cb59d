/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The guest's filesystems: frozen for the transaction, and thawed whatever happens. */
#include "backup/qmp-session.h"

/* Milliseconds: an agent that runs answers in a few; a thaw waits for the freeze before it. */
#define AGENT_TIMEOUT 5000
#define THAW_TIMEOUT  15000

static unsigned freeze_timeout(const FlQmpSession *session)
{
    unsigned seconds = session->backup.options->freeze_timeout;

    return (seconds != 0 ? MIN(seconds, 3600) : 10) * 1000;
}

bool fl_qmp_journal(FlQmpSession *session, const char *agent, GError **error)
{
    FlJournalEntry entry = {
        .source = session->backup.options->source,
        .series = fl_backup_series(session->backup.options),
        .agent = agent,
        .socket = session->socket,
    };

    return fl_journal_write(session->journal, &entry, error);
}

static bool freeze(FlQmpSession *session, GError **error)
{
    session->agent = fl_agent_connect(session->backup.options->agent, AGENT_TIMEOUT, error);
    if (session->agent == NULL)
        return false;
    session->frozen_since = g_get_monotonic_time();
    return fl_agent_freeze(session->agent, freeze_timeout(session), error);
}

bool fl_qmp_freeze(FlQmpSession *session, GError **error)
{
    g_autoptr(GError) failure = NULL;

    if (session->backup.options->agent == NULL || freeze(session, &failure)) {
        /* A QEMU that hangs must not keep the guest frozen. */
        if (session->agent != NULL)
            fl_qmp_set_timeout(session->qmp, freeze_timeout(session));
        return true;
    }
    if (session->backup.options->agent_optional && fl_qmp_thaw(session, error)) {
        fl_backup_note(&session->backup,
                       "the guest was not frozen, so the snapshot is like after a power cut: %s",
                       failure->message);
        return true;
    }
    if (*error == NULL)
        g_propagate_error(error, g_steal_pointer(&failure));
    return false;
}

/* Whether the freeze lasted: Windows ends one by itself. */
static bool check_frozen(FlQmpSession *session, GError **error)
{
    g_autoptr(GError) failure = NULL;
    bool frozen = false;

    if (fl_agent_frozen(session->agent, AGENT_TIMEOUT, &frozen, &failure) && frozen)
        return true;
    if (session->backup.options->agent_optional) {
        fl_backup_note(&session->backup, "the guest did not stay frozen until the snapshot was "
                                         "taken, which is like after a power cut");
        return true;
    }
    if (failure != NULL)
        g_propagate_error(error, g_steal_pointer(&failure));
    else
        fl_fail(error, "the guest did not stay frozen until the snapshot was taken");
    return false;
}

/* The agent that the journal names, when there is no connection to it. */
static bool connect_again(FlQmpSession *session, GError **error)
{
    const FlJournalEntry *entry = fl_journal_entry(session->journal);

    if (session->agent == NULL && entry != NULL && entry->agent != NULL)
        session->agent = fl_agent_connect(entry->agent, AGENT_TIMEOUT, error);
    return session->agent != NULL;
}

bool fl_qmp_thaw(FlQmpSession *session, GError **error)
{
    const FlJournalEntry *entry = fl_journal_entry(session->journal);
    bool ours = session->agent != NULL;
    bool ok = true;

    if (entry == NULL || entry->agent == NULL)
        return true;
    if (ours && session->backup.state == FL_STATE_THAWING)
        ok = check_frozen(session, error);
    if (ours)
        fl_qmp_set_timeout(session->qmp, fl_qmp_timeout(session));

    if (!connect_again(session, ok ? error : NULL) ||
        !fl_agent_thaw(session->agent, THAW_TIMEOUT, ok ? error : NULL)) {
        session->left = true;
        if (ok)
            g_prefix_error(error, "the guest may still be frozen (guest-fsfreeze-thaw thaws it): ");
        return false;
    }
    if (!ours)
        fl_backup_report(&session->backup, "thawed the guest");
    else if (session->frozen_since != 0)
        session->backup.frozen_ns =
            (uint64_t)(g_get_monotonic_time() - session->frozen_since) * 1000;
    g_clear_pointer(&session->agent, fl_agent_free);
    return fl_qmp_journal(session, NULL, ok ? error : NULL) && ok;
}
