/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whether this QEMU owns the images of its disks. During and after a migration another QEMU owns
 * them. This one's cached qcow2 tables are stale then, and writing through them corrupts the disk
 * of the VM running elsewhere. QEMU itself prevents little of this.
 */
#include "snapshot/qmp/fleece.h"
#include "qemu/json.h"

/* QEMU docs/interop/qemu-qmp-ref: RunState and MigrationStatus. Unknown states, which newer
 * versions may add, count as unsafe. */
static const char *const owning_states[] = {
    "running",  "paused",         "prelaunch", "suspended", "io-error", "internal-error",
    "watchdog", "guest-panicked", "shutdown",  "debug",     NULL};
static const char *const settled_migrations[] = {"none", "completed", "failed", "cancelled", NULL};

char *fl_vm_disowned(const char *state, const char *migration, bool late_activation)
{
    bool stopped = g_strcmp0(state, "paused") == 0 || g_strcmp0(state, "prelaunch") == 0;

    if (state == NULL)
        return g_strdup(
            "QEMU does not report its run state, so it is unknown whether it owns its disks");
    if (g_str_equal(state, "postmigrate") || g_str_equal(state, "finish-migrate"))
        return g_strdup_printf("the VM was migrated away (run state %s), and another QEMU may own "
                               "its disks: back it up on the host where it runs",
                               state);
    if (g_str_equal(state, "inmigrate"))
        return g_strdup("the VM waits for an incoming migration (run state inmigrate), and another "
                        "QEMU owns its disks: back it up on the host where it runs");
    if (g_str_equal(state, "restore-vm"))
        return g_strdup("the VM is being reverted to an internal snapshot (run state restore-vm): "
                        "try again afterwards; if it failed, resume the VM (cont) or end it first");
    if (!g_strv_contains(owning_states, state))
        return g_strdup_printf("QEMU does not own its disks in run state %s: try again afterwards",
                               state);
    /* With late-block-activate, a migrated VM takes over its disks only when it is resumed. */
    if (stopped && late_activation && g_strcmp0(migration, "completed") == 0)
        return g_strdup_printf("the VM was migrated and not resumed since (run state %s), and may "
                               "not own its disks yet: resume it first",
                               state);
    return NULL;
}

char *fl_vm_migrating(const char *migration)
{
    if (migration == NULL || g_strv_contains(settled_migrations, migration))
        return NULL;
    return g_strdup_printf(
        "the VM is being migrated (%s): after that, back it up on the host where it runs",
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

/* Whether QEMU reports (since 10.0) that all images of its devices are active. */
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
