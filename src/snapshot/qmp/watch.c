/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Watches for what may go wrong with a snapshot while it is read. */
#include "snapshot/qmp/fleece.h"
#include "qemu/json.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

/* Milliseconds between checks of the scratch space, which others may use too. The reserve of a
 * scratch file has to last that long. */
#define ROOM_INTERVAL 100

static bool is_over(const char *status)
{
    return g_strcmp0(status, "aborting") == 0 || g_strcmp0(status, "concluded") == 0 ||
           g_strcmp0(status, "null") == 0;
}

/* Handles removal of the device at PATH. */
static void lose_device(FlFleece *session, const char *path)
{
    size_t length = path != NULL ? strlen(path) : 0;

    for (guint i = 0; length > 0 && i < session->backup.disks->len; i++) {
        FlFleeceDisk *disk = g_ptr_array_index(session->backup.disks, i);
        if (disk->qdev != NULL && strncmp(disk->qdev, path, length) == 0 &&
            (disk->qdev[length] == '\0' || disk->qdev[length] == '/'))
            fl_snapshot_lose(&disk->disk, "it was unplugged");
    }
}

/* Returns the disk whose part WHAT, such as "job", has the name that MEMBER of an event gives; NULL
 * if there is none. */
static FlFleeceDisk *disk_of(FlFleece *session, JsonObject *data, const char *member,
                             const char *what)
{
    return fl_fleece_find(session, fl_json_string(data, member), what);
}

static void on_job(FlFleece *session, JsonObject *data)
{
    FlFleeceDisk *disk = disk_of(session, data, "id", "job");

    if (disk != NULL && is_over(fl_json_string(data, "status")))
        fl_snapshot_lose(&disk->disk, "its backup job in QEMU has ended");
}

static void on_export_deleted(FlFleece *session, JsonObject *data)
{
    FlFleeceDisk *disk = disk_of(session, data, "id", "export");

    if (disk != NULL)
        fl_snapshot_lose(&disk->disk, "its export was removed");
}

static void on_stir(FlFleece *session, JsonObject *data)
{
    session->stirred = true;
}

static void on_device_deleted(FlFleece *session, JsonObject *data)
{
    lose_device(session, fl_json_string(data, "path"));
}

static void on_threshold(FlFleece *session, JsonObject *data)
{
    FlFleeceDisk *disk = disk_of(session, data, "node-name", "file");

    if (disk != NULL)
        disk->near_threshold = true;
    session->next_look = 0;
}

static void on_io_error(FlFleece *session, JsonObject *data)
{
    FlFleeceDisk *disk = disk_of(session, data, "node-name", "filter");

    if (disk == NULL)
        return;
    if (fl_json_bool(data, "nospace"))
        /* The guest's own write failed, and the guest may have stopped because of it. */
        fl_snapshot_lose(&disk->disk, "no space for a write of the guest: the scratch directory, "
                                      "or the storage of the disk itself, is full");
    else if (g_strcmp0(fl_json_string(data, "operation"), "write") == 0)
        /* Once the job is gone, the guest's retry no longer copies what cannot be read. */
        fl_snapshot_lose(&disk->disk,
                         "a write of the guest failed, possibly because the overwritten block "
                         "could not be copied: %s",
                         fl_json_string(data, "reason"));
}

/* See QEMU docs/interop/qemu-qmp-ref. When QEMU exits, it closes the connection. */
void fl_fleece_on_event(const char *event, JsonObject *data, void *opaque)
{
    static const struct {
        const char *event;
        void (*handle)(FlFleece *session, JsonObject *data);
    } handlers[] = {
        {"JOB_STATUS_CHANGE", on_job},
        {"BLOCK_EXPORT_DELETED", on_export_deleted},
        {"STOP", on_stir},
        {"MIGRATION", on_stir},
        {"DEVICE_DELETED", on_device_deleted},
        {"BLOCK_WRITE_THRESHOLD", on_threshold},
        {"BLOCK_IO_ERROR", on_io_error},
    };
    FlFleece *session = opaque;

    session->events++;
    if (session->backup.disks == NULL)
        return;
    for (size_t i = 0; i < G_N_ELEMENTS(handlers); i++) {
        if (g_str_equal(event, handlers[i].event))
            handlers[i].handle(session, data);
    }
}

/* Marks all disks lost if QEMU no longer owns their images, and each disk whose job does not
 * run. */
static bool look_at_jobs(FlFleece *session, GError **error)
{
    g_autoptr(JsonNode) reply = NULL, status = NULL;
    g_autoptr(GHashTable) alive = g_hash_table_new(NULL, NULL);
    g_autofree char *disowned = NULL;
    unsigned seen = session->events;
    const char *state;
    JsonArray *jobs;

    if (!fl_fleece_do(session, "query-jobs", NULL, &reply, error, "jobs") ||
        !fl_fleece_do(session, "query-status", NULL, &status, error, "run state"))
        return false;
    state = fl_json_string(fl_json_as_object(status), "status");
    disowned = fl_vm_disowned(state, NULL, false);
    if (disowned != NULL)
        fl_snapshot_lose_all(&session->backup, disowned);
    jobs = fl_json_as_array(reply);
    for (guint i = 0; i < fl_json_length(jobs); i++) {
        JsonObject *job = fl_json_element(jobs, i);
        FlFleeceDisk *disk = fl_fleece_find(session, fl_json_string(job, "id"), "job");
        const char *failure = fl_json_string(job, "error");

        if (disk == NULL)
            continue;
        if (is_over(fl_json_string(job, "status")) || failure != NULL)
            fl_snapshot_lose(&disk->disk, "its backup job in QEMU has ended: %s",
                             failure != NULL ? failure : "nobody says why");
        else
            g_hash_table_add(alive, disk);
    }
    for (guint i = 0; i < session->backup.disks->len; i++) {
        FlFleeceDisk *disk = g_ptr_array_index(session->backup.disks, i);
        if (!g_hash_table_contains(alive, disk))
            fl_snapshot_lose(&disk->disk, "its backup job in QEMU is gone");
    }
    session->confirmed = false;
    if (g_strcmp0(state, "running") == 0)
        fl_fleece_note_confirmed(session, seen);
    return true;
}

bool fl_fleece_check_jobs(FlSnapshot *backup, GError **error)
{
    FlFleece *session = (FlFleece *)backup;
    if (!fl_fleece_reach(session, error))
        return false;
    if (session->gone)
        fl_snapshot_lose_all(&session->backup, "QEMU has ended");
    else if (!look_at_jobs(session, error))
        return false;
    return fl_snapshot_none_lost(&session->backup, error);
}

/* Reconnects if the monitor closed while QEMU goes on; only then may events have been missed. */
static void dispatch(FlFleece *session)
{
    g_autoptr(GError) failure = NULL;

    if (session->gone || (session->qmp != NULL && fl_qmp_dispatch(session->qmp, 0, NULL)))
        return;
    if (!fl_fleece_reach(session, &failure))
        fl_snapshot_lose_all(&session->backup, failure->message);
    else if (session->gone)
        fl_snapshot_lose_all(&session->backup, "QEMU has ended");
    else
        look_at_jobs(session, NULL);
}

/* Uses its own timer: a reader may keep the session busy with requests all the time. Returns the
 * milliseconds until the next check; -1: never. */
static int look_at_room(FlFleece *session)
{
    gint64 now = g_get_monotonic_time();

    if (session->gone)
        return -1;
    if (now >= session->next_look) {
        session->next_look = now + ROOM_INTERVAL * G_TIME_SPAN_MILLISECOND;
        fl_fleece_watch_room(session);
    }
    return (int)((session->next_look - now) / 1000) + 1;
}

void fl_fleece_wait(FlSnapshot *backup, int wake)
{
    FlFleece *session = (FlFleece *)backup;

    for (;;) {
        int timeout = look_at_room(session);
        struct pollfd fds[] = {
            {.fd = wake, .events = POLLIN},
            {.fd = session->qmp == NULL ? -1 : fl_qmp_fd(session->qmp), .events = POLLIN},
        };

        int ready, why;

        if (fl_snapshot_newly_lost(backup))
            return;
        fl_snapshot_set_silent(backup, fl_fleece_silent_fd(session));
        ready = poll(fds, G_N_ELEMENTS(fds), timeout);
        why = errno;
        fl_snapshot_set_silent(backup, -1);
        if ((ready < 0 && why != EINTR) || fds[0].revents != 0)
            return;
        dispatch(session);
        if (!session->gone)
            fl_fleece_watch_owner(session);
    }
}

bool fl_fleece_look(FlSnapshot *backup)
{
    FlFleece *session = (FlFleece *)backup;

    dispatch(session);
    look_at_room(session);
    return session->gone || look_at_jobs(session, NULL);
}
