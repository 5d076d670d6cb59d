/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whether this QEMU owns the images of its disks. During and after a migration another one has
 * them: what this one knows of a qcow2's tables is stale then, and a write through them damages the
 * disk of the VM that runs elsewhere. QEMU itself refuses little of it.
 */
#include "snapshot/qmp/fleece.h"
#include "qemu/json.h"

/* QEMU docs/interop/qemu-qmp-ref: RunState and MigrationStatus. States that are not known, which
 * newer versions may have, are not safe. */
static const char *const owning_states[] = {
    "running",  "paused",         "prelaunch", "suspended", "io-error", "internal-error",
    "watchdog", "guest-panicked", "shutdown",  "debug",     NULL};
static const char *const settled_migrations[] = {"none", "completed", "failed", "cancelled", NULL};

char *fl_vm_disowned(const char *state, const char *migration, bool late_activation)
{
    bool stopped = g_strcmp0(state, "paused") == 0 || g_strcmp0(state, "prelaunch") == 0;

    if (state == NULL)
        return g_strdup("QEMU does not tell its run state, so nobody knows whether its disks are "
                        "its own");
    if (g_str_equal(state, "postmigrate") || g_str_equal(state, "finish-migrate"))
        return g_strdup_printf("the VM was migrated away (run state %s), and another QEMU may have "
                               "its disks: back it up where it runs now",
                               state);
    if (g_str_equal(state, "inmigrate"))
        return g_strdup("the VM waits for a migration to arrive (run state inmigrate), and another "
                        "QEMU has its disks: back it up where it runs now");
    if (g_str_equal(state, "restore-vm"))
        return g_strdup("the VM is being set back to an internal snapshot (run state restore-vm): "
                        "try again when that is over; if it has failed, resume the VM (cont) or "
                        "end it first");
    if (!g_strv_contains(owning_states, state))
        return g_strdup_printf("QEMU's run state is %s, in which its disks are not its own: try "
                               "again when that is over",
                               state);
    /* With late-block-activate a VM that arrived takes its disks when it is resumed. */
    if (stopped && late_activation && g_strcmp0(migration, "completed") == 0)
        return g_strdup_printf(
            "the VM has been migrated and not been resumed since (run state %s), "
            "and may not have its disks yet: resume it first",
            state);
    return NULL;
}

char *fl_vm_migrating(const char *migration)
{
    if (migration == NULL || g_strv_contains(settled_migrations, migration))
        return NULL;
    return g_strdup_printf("the VM is being migrated (%s): when that is over, back it up where it "
                           "runs then",
                           migration);
}

static bool late_activation(FlFleece *session)
{
    g_autoptr(JsonNode) reply = NULL;
    JsonArray *array;

    if (!fl_qmp_call(session->qmp, "query-migrate-capabilities", NULL, &reply, NULL))
        return false;
    array = fl_json_as_array(reply);
    for (guint i = 0; i < fl_json_length(array); i++) {
        JsonObject *capability = fl_json_element(array, i);
        if (g_strcmp0(fl_json_string(capability, "capability"), "late-block-activate") == 0)
            return fl_json_bool(capability, "state");
    }
    return false;
}

/* Whether QEMU says (from 10.0 on) that all images of its devices are active. */
static bool all_active(FlFleece *session)
{
    g_autoptr(JsonNode) reply = NULL;
    JsonArray *devices;
    bool active = false;

    if (!fl_qmp_call(session->qmp, "query-block", NULL, &reply, NULL))
        return false;
    devices = fl_json_as_array(reply);
    for (guint i = 0; i < fl_json_length(devices); i++) {
        JsonObject *inserted = fl_json_object(fl_json_element(devices, i), "inserted");

        if (inserted == NULL)
            continue;
        active = fl_json_bool(inserted, "active");
        if (!active)
            break;
    }
    return active;
}

bool fl_fleece_ask_owner(FlFleece *session, bool migrating, char **why, GError **error)
{
    g_autoptr(JsonNode) status = NULL, reply = NULL;
    const char *state, *migration;
    bool late;

    *why = NULL;
    if (!fl_fleece_do(session, "query-status", NULL, &status, error, "run state") ||
        !fl_fleece_do(session, "query-migrate", NULL, &reply, error, "migration"))
        return false;
    state = fl_json_string(fl_json_as_object(status), "status");
    migration = fl_json_string(fl_json_as_object(reply), "status");
    late = g_strcmp0(migration, "completed") == 0 && late_activation(session);
    *why = fl_vm_disowned(state, migration, late && !all_active(session));
    if (*why == NULL && !migrating)
        *why = fl_vm_migrating(migration);
    return true;
}

bool fl_fleece_check_owner(FlFleece *session, bool migrating, GError **error)
{
    g_autofree char *why = NULL;

    if (!fl_fleece_ask_owner(session, migrating, &why, error))
        return false;
    return why == NULL || fl_fail(error, "%s", why);
}

void fl_fleece_watch_owner(FlFleece *session)
{
    g_autofree char *why = NULL;

    session->stirred = false;
    if (session->qmp != NULL && fl_fleece_ask_owner(session, false, &why, NULL) && why != NULL)
        fl_snapshot_lose_all(&session->backup, why);
}
