/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The claim to a VM: only one session at a time works on it, whichever of the VM's monitors it
 * uses.
 *
 * A VM with a UUID has one lock, named after the UUID. Without a UUID only the monitor's path is
 * known, and a VM may have several monitors. So QEMU also stores which lock is held, in an object
 * that has no other effect (authz-simple, whose "identity" can be any string). A session that
 * connects to another monitor reads there which lock to take and which journal to read. The object
 * is only removed under that lock, and a name can be added only once, so two concurrent sessions
 * agree.
 */
#include "snapshot/qmp/fleece.h"
#include "util/interrupt.h"

#include <string.h>

#define CLAIM FL_FLEECE_PREFIX "claim"
/* Each retry means that another session began or ended at that moment. */
#define TRIES 10

static char *read_claim(FlFleece *session)
{
    g_autoptr(JsonNode) reply = NULL;

    if (!fl_qmp_call(session->qmp, "qom-get",
                     fl_qmp_args(fl_qmp_string("path", "/objects/" CLAIM),
                                 fl_qmp_string("property", "identity")),
                     &reply, NULL) ||
        json_node_get_value_type(reply) != G_TYPE_STRING)
        return NULL;
    return json_node_dup_string(reply);
}

static bool add_claim(FlFleece *session, const char *claim, GError **error)
{
    return fl_fleece_do(session, "object-add",
                        fl_qmp_args(fl_qmp_string("qom-type", "authz-simple"),
                                    fl_qmp_string("id", CLAIM), fl_qmp_string("identity", claim)),
                        NULL, error, "cannot mark the VM as in use");
}

/* Returns the key that CLAIM names. Accepts only keys in DIRECTORY: a VM must not choose where we
 * write. */
static const char *claimed_key(const char *claim, const char *directory, GError **error)
{
    g_autofree char *prefix = g_strconcat(directory, "/", NULL);
    g_autofree char *shown = NULL;

    if (g_str_has_prefix(claim, prefix))
        return claim + strlen(prefix);
    shown = g_strescape(claim, NULL);
    fl_fail(error,
            "a fleecefs with another state directory uses this VM, or crashed while using it: "
            "%.200s; end it, or run --recover with FLEECEFS_STATE_DIR set to that directory, or, "
            "if that is gone, remove its mark from QEMU (object_del " CLAIM ")",
            shown);
    return NULL;
}

static bool claim(FlFleece *session, const char *directory, const char *key, GError **error)
{
    for (int i = 0; i < TRIES; i++) {
        g_autofree char *found = read_claim(session);
        const char *used = found != NULL ? claimed_key(found, directory, error) : key;
        g_autofree char *claim = g_strconcat(directory, "/", used, NULL);
        g_autoptr(FlJournal) journal =
            used != NULL
                ? fl_journal_open(directory, used, session->backup.options->mountpoint, error)
                : NULL;
        g_autoptr(GError) failure = NULL;
        g_autofree char *now = NULL;

        if (journal == NULL)
            return false;
        /* Holding the lock: nobody else changes the claim now. */
        if ((now = read_claim(session)) == NULL && add_claim(session, claim, &failure))
            now = g_strdup(claim);
        if (g_strcmp0(now, claim) == 0) {
            session->backup.journal = g_steal_pointer(&journal);
            return true;
        }
        if (failure != NULL && (now = read_claim(session)) == NULL) {
            g_propagate_error(error, g_steal_pointer(&failure));
            return false;
        }
    }
    return fl_fail(error, "other fleecefs processes start and end in this VM; try again");
}

/* Not interruptible: a signal could leave the claim behind or make it seem absent. */
bool fl_fleece_claim(FlFleece *session, const char *directory, const char *key, GError **error)
{
    bool before = fl_interrupt_allow(false);
    bool ok = claim(session, directory, key, error);

    fl_interrupt_allow(before);
    return ok;
}

void fl_fleece_unclaim(FlFleece *session)
{
    /* If something is left, the next session finds it through this lock. */
    if (session->backup.journal == NULL || fl_journal_entry(session->backup.journal) != NULL ||
        session->gone || session->qmp == NULL)
        return;
    fl_qmp_call(session->qmp, "object-del", fl_qmp_args(fl_qmp_string("id", CLAIM)), NULL, NULL);
}
