/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Scratch images: the original contents of the blocks that the guest overwrites.
 *
 * The files have no name: they are created with O_TMPFILE and passed to QEMU, which therefore needs
 * no access to our directory. The kernel frees them once QEMU and we have closed them, however we
 * exit.
 */
#include "snapshot/qmp/fleece.h"
#include "qemu/json.h"
#include "snapshot/scratch-key.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)

static const char *directory(const FlFleece *session)
{
    return session->scratch;
}

static int make_file(const FlFleece *session, GError **error)
{
    g_autofree char *name = NULL;
    int fd = open(directory(session), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    if (fd >= 0)
        return fd;
    if (errno == EOPNOTSUPP || errno == EISDIR) { /* NFS, FUSE */
        name = g_build_filename(directory(session), "fleecefs-scratch-XXXXXX", NULL);
        fd = g_mkstemp_full(name, O_RDWR | O_CLOEXEC, 0600);
        if (fd >= 0 && g_unlink(name) == 0)
            return fd;
    }
    fl_fail(error,
            "scratch directory %s: cannot create a file: %s; choose another with -o scratch=DIR",
            directory(session), g_strerror(errno));
    if (fd >= 0)
        close(fd);
    return -1;
}

/* Formats the encrypted image of DISK. Afterwards only QEMU has its key. */
static bool encrypt_image(FlFleece *session, const FlFleeceDisk *disk, GError **error)
{
    g_autofree char *id = fl_fleece_id(disk, FL_FLEECE_SECRET);
    g_autoptr(GError) failure = NULL;
    char *key = fl_scratch_key_new(&failure);
    bool ok = key != NULL && fl_scratch_key_format(disk->scratch, disk->disk.size, key, &failure) &&
              fl_fleece_do(session, "object-add",
                           fl_qmp_args(fl_qmp_string("qom-type", "secret"), fl_qmp_string("id", id),
                                       fl_qmp_string("data", key)),
                           NULL, error, "disk %s: secret for -o scratch_encrypt", disk->disk.name);

    fl_scratch_key_free(key);
    return failure == NULL ? ok
                           : fl_fail(error, "disk %s: scratch image for -o scratch_encrypt: %s",
                                     disk->disk.name, failure->message);
}

/* Returns the encryption options of the image of DISK; NULL if it is not encrypted. */
static JsonNode *encryption(const FlFleece *session, const FlFleeceDisk *disk)
{
    g_autofree char *id = fl_fleece_id(disk, FL_FLEECE_SECRET);

    return session->backup.options->scratch_encrypt
               ? fl_qmp_args(fl_qmp_string("format", "luks"), fl_qmp_string("key-secret", id))
               : NULL;
}

/* Adds the scratch file of DISK to QEMU as the node NODE. */
static bool add_file(FlFleece *session, FlFleeceDisk *disk, const char *node, GError **error)
{
    g_autoptr(JsonNode) reply = NULL;
    g_autofree char *path = NULL;
    gint64 set;

    if (!fl_qmp_call_fd(session->qmp, "add-fd", fl_qmp_args(fl_qmp_string("opaque", node)),
                        disk->scratch, &reply, error)) {
        g_prefix_error(error, "disk %s: cannot pass the scratch file: ", disk->disk.name);
        return false;
    }
    set = fl_json_int(fl_json_as_object(reply), "fdset-id");
    path = g_strdup_printf("/dev/fdset/%" G_GINT64_FORMAT, set);
    /* The node gets its own descriptor; QEMU drops the set when that is closed. */
    return fl_fleece_do(
               session, "blockdev-add",
               fl_qmp_args(fl_qmp_string("driver", "file"), fl_qmp_string("node-name", node),
                           fl_qmp_string("filename", path), fl_qmp_string("discard", "unmap")),
               NULL, error, "disk %s: scratch file", disk->disk.name) &&
           fl_fleece_do(session, "remove-fd", fl_qmp_args(fl_qmp_int("fdset-id", set)), NULL, error,
                        "disk %s: scratch file", disk->disk.name);
}

/* Adds the file of DISK to QEMU as a node and starts formatting it. */
static bool start_image(FlFleece *session, FlFleeceDisk *disk, GError **error)
{
    bool encrypt = session->backup.options->scratch_encrypt;
    g_autofree char *file = fl_fleece_id(disk, "file");
    g_autofree char *create = fl_fleece_id(disk, "create");
    JsonNode *image;

    disk->scratch = make_file(session, error);
    if (disk->scratch < 0 || (encrypt && !encrypt_image(session, disk, error)) ||
        !add_file(session, disk, file, error))
        return false;
    if (encrypt)
        return true;
    image = fl_qmp_args(fl_qmp_string("driver", "qcow2"), fl_qmp_string("file", file),
                        fl_qmp_int("size", (gint64)disk->disk.size));
    return fl_fleece_do(session, "blockdev-create",
                        fl_qmp_args(fl_qmp_string("job-id", create), fl_qmp_node("options", image)),
                        NULL, error, "disk %s: scratch image", disk->disk.name);
}

/* Sets DONE to whether all jobs that create images have finished; fails if one failed. */
static bool images_done(FlFleece *session, bool *done, GError **error)
{
    g_autoptr(JsonNode) reply = NULL;
    JsonArray *jobs;

    if (!fl_fleece_do(session, "query-jobs", NULL, &reply, error, "scratch images"))
        return false;
    jobs = fl_json_as_array(reply);
    *done = true;
    for (guint i = 0; i < fl_json_length(jobs); i++) {
        JsonObject *job = fl_json_element(jobs, i);
        const char *id = fl_json_string(job, "id");
        const char *failure = fl_json_string(job, "error");
        FlFleeceDisk *disk = fl_fleece_find(session, id, "create");

        if (disk == NULL)
            continue;
        if (failure != NULL)
            return fl_fail(error, "disk %s: scratch image: %s", disk->disk.name, failure);
        if (g_strcmp0(fl_json_string(job, "status"), "concluded") != 0)
            *done = false;
        else if (!fl_fleece_do(session, "job-dismiss", fl_qmp_args(fl_qmp_string("id", id)), NULL,
                               error, "disk %s: scratch image", disk->disk.name))
            return false;
    }
    return true;
}

static bool wait_for_images(FlFleece *session, GError **error)
{
    gint64 deadline = g_get_monotonic_time() + 1000 * (gint64)fl_fleece_timeout(session);

    for (;;) {
        unsigned seen = session->events;
        bool done;

        if (!images_done(session, &done, error))
            return false;
        if (done)
            return true;
        if (!fl_fleece_await(session, seen, deadline, error, "timed out creating scratch images"))
            return false;
    }
}

/* Bytes to reserve for DISK beyond the end of its file. */
static uint64_t share_of(const FlFleece *session, const FlFleeceDisk *disk)
{
    uint64_t all = 0;

    if (disk->disk.whole_room)
        return fl_snapshot_most_room(&disk->disk);
    /* In proportion to size: a file grows hardly larger than its disk. */
    for (guint i = 0; i < session->backup.disks->len; i++) {
        const FlSnapshotDisk *other = g_ptr_array_index(session->backup.disks, i);
        all += MIN(other->size, session->reserve);
    }
    return (uint64_t)((double)session->reserve / (double)MAX(all, 1) *
                      (double)MIN(disk->disk.size, session->reserve));
}

/* Reserves blocks so that a file of SIZE bytes can grow by its share even if others fill the file
 * system. Returns false if there is no room. */
static bool reserve_room(const FlFleece *session, FlFleeceDisk *disk, uint64_t size)
{
    uint64_t share = share_of(session, disk), most = fl_snapshot_most_room(&disk->disk), room = 0;
    uint64_t wanted = MIN(size + share, most);

    /* Skip small steps. */
    if (disk->reserved >= MIN(size + share - share / 4, most))
        return true;
    disk->reserved = MAX(disk->reserved, size);
    if (disk->reserved >= wanted)
        return true;
    if (fallocate(disk->scratch, FALLOC_FL_KEEP_SIZE, (off_t)disk->reserved,
                  (off_t)(wanted - disk->reserved)) == 0) {
        disk->reserved = wanted;
        return true;
    }
    if (errno == EINTR)
        return true;
    if (errno != EOPNOTSUPP && errno != ENOSYS)
        return false;
    return !fl_snapshot_free_room(directory(session), &room, NULL) || room > session->reserve;
}

/* Makes QEMU send an event when the file has grown by half of its reserve. */
static bool set_threshold(FlFleece *session, FlFleeceDisk *disk, GError **error)
{
    g_autofree char *file = fl_fleece_id(disk, "file");
    uint64_t share = share_of(session, disk) / 2;
    struct stat st;

    if (fstat(disk->scratch, &st) < 0)
        return fl_fail(error, "disk %s: scratch file: %s", disk->disk.name, g_strerror(errno));
    return fl_fleece_do(session, "block-set-write-threshold",
                        fl_qmp_args(fl_qmp_string("node-name", file),
                                    fl_qmp_int("write-threshold", (gint64)((uint64_t)st.st_size +
                                                                           MAX(share, MIB / 2)))),
                        NULL, error, "disk %s: scratch file", disk->disk.name);
}

static bool add_overlay(FlFleece *session, FlFleeceDisk *disk, GError **error)
{
    g_autofree char *file = fl_fleece_id(disk, "file");
    g_autofree char *overlay = fl_fleece_id(disk, "overlay");

    if (!reserve_room(session, disk, 0))
        return fl_fail(
            error,
            "scratch directory %s: cannot reserve space: %s; choose another with -o scratch=DIR",
            directory(session), g_strerror(errno));
    return fl_fleece_do(
               session, "blockdev-add",
               fl_qmp_args(fl_qmp_string("driver", "qcow2"), fl_qmp_string("node-name", overlay),
                           fl_qmp_string("file", file), fl_qmp_string("backing", disk->node),
                           fl_qmp_string("discard", "unmap"),
                           fl_qmp_node("encrypt", encryption(session, disk))),
               NULL, error, "disk %s: scratch image", disk->disk.name) &&
           set_threshold(session, disk, error);
}

bool fl_fleece_prepare(FlFleece *session, GError **error)
{
    GPtrArray *disks = session->backup.disks;

    for (guint i = 0; i < disks->len; i++) {
        if (!start_image(session, g_ptr_array_index(disks, i), error))
            return false;
    }
    if (!wait_for_images(session, error))
        return false;
    for (guint i = 0; i < disks->len; i++) {
        if (!add_overlay(session, g_ptr_array_index(disks, i), error))
            return false;
    }
    return true;
}

static uint64_t scratch_bytes(const FlFleeceDisk *disk)
{
    struct stat st;

    if (disk->scratch < 0 || fstat(disk->scratch, &st) < 0)
        return 0;
    /* Blocks beyond the end of the file are only reserved. */
    return MIN((uint64_t)st.st_blocks * 512, (uint64_t)st.st_size);
}

/* Returns the disk that frees the most space when it is given up. */
static FlFleeceDisk *largest(const FlFleece *session)
{
    FlFleeceDisk *found = NULL;

    for (guint i = 0; i < session->backup.disks->len; i++) {
        FlFleeceDisk *disk = g_ptr_array_index(session->backup.disks, i);
        if (disk->disk.lost == NULL &&
            (found == NULL || scratch_bytes(disk) > scratch_bytes(found)))
            found = disk;
    }
    return found;
}

void fl_fleece_watch_room(FlFleece *session)
{
    for (guint i = 0; i < session->backup.disks->len; i++) {
        FlFleeceDisk *disk = g_ptr_array_index(session->backup.disks, i);
        FlFleeceDisk *worst;
        struct stat st;

        if (disk->disk.lost != NULL || fstat(disk->scratch, &st) < 0)
            continue;
        if (!reserve_room(session, disk, (uint64_t)st.st_size)) {
            worst = largest(session);
            fl_snapshot_lose(
                &worst->disk,
                "the scratch directory %s is full: the guest has overwritten too many blocks",
                directory(session));
            return;
        }
        if (disk->near_threshold)
            set_threshold(session, disk, NULL);
        disk->near_threshold = false;
    }
    fl_snapshot_measure(&session->backup);
}

void fl_fleece_empty_scratch(FlFleeceDisk *disk)
{
    /* QEMU may keep its descriptor longer than its node, so closing ours would not free the
     * space. */
    if (disk->scratch >= 0 && ftruncate(disk->scratch, 0) < 0)
        g_debug("scratch file: %s", g_strerror(errno));
    disk->reserved = 0;
}

void fl_fleece_scratch_use(const FlSnapshot *backup, const FlSnapshotDisk *disk, uint64_t *used,
                           uint64_t *limit)
{
    const FlFleece *session = (const FlFleece *)backup;
    uint64_t reserve = ((const FlFleeceDisk *)disk)->reserved > 0 ? 0 : session->reserve, room = 0;

    *used = scratch_bytes((const FlFleeceDisk *)disk);
    *limit = *used;
    if (fl_snapshot_free_room(directory(session), &room, NULL) && room > reserve)
        *limit += room - reserve;
}
