/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The claim to a VM: one session at a time works on it, by whichever of its monitors.
 *
 * A VM with a UUID has one lock, named after that. Without one all that is known is the path of a
 * monitor, and a VM may have several. So the lock that is held is told to QEMU as well, in an
 * object that does nothing (authz-simple, of which any string is the "identity"): whoever comes by
 * another monitor looks there which lock to take, and which journal to read. The object is removed
 * under that lock only, and a name can be added once, so two that come at once agree.
 */
#include "snapshot/qmp/fleece.h"
#include "util/interrupt.h"

#include <string.h>

#define CLAIM FL_FLEECE_PREFIX "claim"
/* Each try is lost to a session that began or ended in this moment. */
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
                        NULL, error, "cannot mark the VM as taken");
}

/* The key that CLAIM names. Only one in DIRECTORY is believed: a VM is not to choose where we
 * write. */
static const char *claimed_key(const char *claim, const char *directory, GError **error)
{
    g_autofree char *prefix = g_strconcat(directory, "/", NULL);
    g_autofree char *shown = NULL;

    if (g_str_has_prefix(claim, prefix))
        return claim + strlen(prefix);
    shown = g_strescape(claim, NULL);
    fl_fail(error,
            "a fleecefs with another state directory has this VM, or has died with it: %.200s; end "
            "it, or --recover with FLEECEFS_STATE_DIR set to that directory, or, if it is gone, "
            "remove its mark from QEMU (object_del " CLAIM ")",
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
            used != NULL ? fl_journal_open(directory, used, error) : NULL;
        g_autoptr(GError) failure = NULL;
        g_autofree char *now = NULL;

        if (journal == NULL)
            return false;
        /* Under the lock: nobody else changes it any more. */
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
    return fl_fail(error, "other fleecefs come and go in this VM; try again");
}

/* A claim that was cut short by a signal might stay, or seem not to be there. */
bool fl_fleece_claim(FlFleece *session, const char *directory, const char *key, GError **error)
{
    bool before = fl_interrupt_allow(false);
    bool ok = claim(session, directory, key, error);

    fl_interrupt_allow(before);
    return ok;
}

void fl_fleece_unclaim(FlFleece *session)
{
    /* What is left is for the next session, which finds it by this lock. */
    if (session->backup.journal == NULL || fl_journal_entry(session->backup.journal) != NULL ||
        session->gone || session->qmp == NULL)
        return;
    fl_qmp_call(session->qmp, "object-del", fl_qmp_args(fl_qmp_string("id", CLAIM)), NULL, NULL);
}
