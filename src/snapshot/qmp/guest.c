/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Freezes the guest's filesystems for the transaction and thaws them whatever happens. */
#include "snapshot/qmp/fleece.h"

/* Milliseconds: a running agent answers within a few; a thaw waits for the freeze before it. */
#define AGENT_TIMEOUT 5000
#define THAW_TIMEOUT  15000
#define LEAST_TIMEOUT 200

static bool freeze(FlFleece *session, GError **error)
{
    session->agent = fl_agent_connect(session->agent_path, AGENT_TIMEOUT, error);
    if (session->agent == NULL) {
        fl_journal_write_thawed(session->backup.journal,
                                NULL); /* only saves a thaw; errors do not matter */
        return false;
    }
    session->frozen_since = g_get_monotonic_time();
    return fl_agent_freeze(session->agent, fl_snapshot_freeze_limit(session->backup.options),
                           error);
}

/* Limits the QMP timeout: a QEMU that hangs must not keep the guest frozen past the limit. */
static void hurry(FlFleece *session)
{
    gint64 spent = (g_get_monotonic_time() - session->frozen_since) / 1000;

    fl_qmp_set_timeout(
        session->qmp,
        (unsigned)MAX(fl_snapshot_freeze_limit(session->backup.options) - spent, LEAST_TIMEOUT));
}

bool fl_fleece_freeze(FlSnapshot *backup, GError **error)
{
    FlFleece *session = (FlFleece *)backup;
    g_autoptr(GError) failure = NULL;

    if (session->agent_path == NULL)
        return true;
    if (freeze(session, &failure)) {
        hurry(session);
        return true;
    }
    if (!session->backup.options->agent_optional)
        return fl_fail(error, "%s; -o agent_optional continues without it", failure->message);
    fl_snapshot_note(&session->backup,
                     "the guest was not frozen, so the snapshot is only crash-consistent: %s",
                     failure->message);
    return fl_fleece_thaw(backup, error);
}

/* Whether the guest stayed frozen: Windows ends a freeze by itself. */
static bool check_frozen(FlFleece *session, GError **error)
{
    g_autoptr(GError) failure = NULL;
    bool frozen = false;

    if (fl_agent_frozen(session->agent, AGENT_TIMEOUT, &frozen, &failure) && frozen)
        return true;
    if (session->backup.options->agent_optional) {
        fl_snapshot_note(&session->backup, "the guest did not stay frozen until the snapshot was "
                                           "taken; the snapshot is only crash-consistent");
        return true;
    }
    if (failure != NULL)
        g_propagate_error(error, g_steal_pointer(&failure));
    else
        fl_fail(error, "the guest did not stay frozen until the snapshot was taken");
    return false;
}

/* Connects to the agent named in the journal if there is no connection. */
static bool reconnect(FlFleece *session, const char *path, GError **error)
{
    if (session->agent == NULL)
        session->agent = fl_agent_connect(path, AGENT_TIMEOUT, error);
    return session->agent != NULL;
}

bool fl_fleece_thaw(FlSnapshot *backup, GError **error)
{
    FlFleece *session = (FlFleece *)backup;
    const FlJournalEntry *entry = fl_journal_entry(session->backup.journal);
    bool ours = session->agent != NULL;
    g_autoptr(GError) failure = NULL;
    bool lasted = true;

    if (entry == NULL || entry->agent == NULL)
        return true;
    /* The agent's socket vanishes with QEMU, and a guest started since then is not frozen. */
    if (!ours && !fl_fleece_listens(entry->agent))
        return fl_journal_write_thawed(session->backup.journal, error);
    if (ours && session->backup.state == FL_STATE_THAWING)
        lasted = check_frozen(session, error);
    fl_qmp_set_timeout(session->qmp, fl_fleece_timeout(session));

    if (!reconnect(session, entry->agent, &failure) ||
        !fl_agent_thaw(session->agent, THAW_TIMEOUT, &failure)) {
        session->backup.left = true;
        g_clear_error(error);
        return fl_fail(error, "the guest may still be frozen; --recover thaws it: %s",
                       failure->message);
    }
    if (!ours)
        fl_snapshot_report(&session->backup, "thawed the guest");
    else
        session->backup.times.frozen =
            (uint64_t)(g_get_monotonic_time() - session->frozen_since) * 1000;
    g_clear_pointer(&session->agent, fl_agent_free);
    return fl_journal_write_thawed(session->backup.journal, lasted ? error : NULL) && lasted;
}
