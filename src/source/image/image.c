/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source/image/image.h"

#include "source/image/whole.h"
#include "source/process.h"
#include "qemu/json.h"
#include "util/file-id.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PROBE_SECONDS 60
/* Files in a chain; QEMU allows more, but real chains are shorter. */
#define CHAIN_MAX 200

void fl_image_free(FlImage *image)
{
    if (image == NULL)
        return;
    g_free(image->info.name);
    g_free(image->info.format);
    g_free(image->info.backing);
    g_clear_pointer(&image->info.bitmaps, g_ptr_array_unref);
    g_clear_pointer(&image->merged, g_ptr_array_unref);
    g_clear_pointer(&image->files, g_ptr_array_unref);
    g_clear_pointer(&image->others, g_hash_table_unref);
    g_free(image->node);
    g_free(image->guard_node);
    g_free(image->union_node);
    g_free(image->open);
    g_free(image->path);
    g_free(image);
}

/* QEMU's messages about a lock held by another process differ only in the lock. */
bool fl_image_is_lock_failure(const char *message)
{
    return strstr(message, "Failed to get") != NULL && strstr(message, "lock") != NULL;
}

static bool fail_image(const FlImage *image, const char *message, GError **error)
{
    g_autofree char *shown = g_filename_display_name(image->path);

    if (fl_image_is_lock_failure(message))
        return fl_fail(error,
                       "%s is in use: a running VM or another program writes to it or to one of "
                       "its backing images; mount the VM instead (qmp:SOCKET or libvirt:DOMAIN), "
                       "or an NBD export of the program that uses it",
                       shown);
    if (strstr(message, "doesn't satisfy the constraints") != NULL)
        return fl_fail(error,
                       "cannot open %s: the image is truncated or damaged (%s); see qemu-img check",
                       shown, message);
    if (strstr(message, "Could not open backing file") != NULL)
        return fl_fail(
            error,
            "cannot open %s: its backing file is missing (%s); if it is a stored increment, mount "
            "backup:FOLDER, or set its backing file with qemu-img rebase -u -b",
            shown, message);
    if (strstr(message, "Unknown driver") != NULL)
        return fl_fail(error,
                       "cannot open %s: QEMU has no format of that name (%s); write, for "
                       "example, -o format=raw or format=qcow2",
                       shown, strstr(message, "Unknown driver"));
    return fl_fail(error, "cannot open %s: %s", shown, message);
}

/* Checks for the start of a VMDK descriptor ("Virtual Disk Format" 5.0), which names the other
 * files of the image: QEMU finds none of them in a jail. */
static bool is_vmdk_descriptor(int fd)
{
    static const char magic[] = "# Disk DescriptorFile";
    char start[sizeof magic - 1];

    return pread(fd, start, sizeof start, 0) == (ssize_t)sizeof start &&
           memcmp(start, magic, sizeof start) == 0;
}

static bool look_at_file(FlImage *image, const char *format, void *opaque, GError **error)
{
    struct stat st;
    const char *why = NULL;
    int fd;

    /* stat() before opening: opening a FIFO or a device may block or have side effects. */
    if (stat(image->path, &st) < 0)
        why = g_strerror(errno);
    else if (S_ISDIR(st.st_mode))
        why = "it is a folder, not a disk image";
    else if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
        why = "it is neither a file nor a block device";
    else if ((fd = open(image->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)) < 0)
        why = g_strerror(errno);
    else {
        if ((format == NULL || g_str_equal(format, "vmdk")) && is_vmdk_descriptor(fd))
            why = "it is a VMDK that refers to other files, which is not safe; convert it to one "
                  "file: qemu-img convert -f vmdk -O qcow2 THIS COPY.qcow2, or serve it: [ "
                  "qemu-nbd -t -r -f vmdk THIS ]";
        close(fd);
    }
    if (why != NULL)
        return fl_fail(error, "%s", why);
    image->block_device = S_ISBLK(st.st_mode);
    return true;
}

static void make_latest(struct timespec *latest, struct timespec time)
{
    if (time.tv_sec > latest->tv_sec ||
        (time.tv_sec == latest->tv_sec && time.tv_nsec > latest->tv_nsec))
        *latest = time;
}

/* The times of a device node say nothing about the device's contents. */
static void find_times(FlImage *image)
{
    struct stat st;

    for (guint i = 0; i < image->own; i++) {
        if (stat(image->files->pdata[i], &st) < 0 || !S_ISREG(st.st_mode)) {
            clock_gettime(CLOCK_REALTIME, &image->info.mtime);
            image->info.ctime = image->info.mtime;
            return;
        }
        make_latest(&image->info.mtime, st.st_mtim);
        make_latest(&image->info.ctime, st.st_ctim);
    }
    for (guint i = image->own; i < image->files->len; i++) {
        if (stat(image->files->pdata[i], &st) == 0 && S_ISREG(st.st_mode)) {
            make_latest(&image->info.mtime, st.st_mtim);
            make_latest(&image->info.ctime, st.st_ctim);
        }
    }
}

/* Sets the ids of the backing files. */
static void find_backing(FlImage *image)
{
    g_autoptr(GPtrArray) below = g_ptr_array_new();

    for (guint i = image->own; i < image->files->len; i++)
        g_ptr_array_add(below, image->files->pdata[i]);
    image->info.backing = fl_file_ids(below);
}

void fl_image_find_state(FlImage *image)
{
    find_times(image);
    find_backing(image);
}

/* Reads INFO, qemu-img's output for the image, which is untrusted. */
static bool take_info(FlImage *image, JsonObject *info, GError **error)
{
    image->info.format = g_strdup(fl_json_string(info, "format"));
    if (fl_json_int(info, "virtual-size") <= 0)
        return fail_image(image,
                          "it is a disk of size 0: there is nothing to mount; if it should have "
                          "data, it was truncated or not copied completely",
                          error);
    if (fl_json_bool(info, "encrypted"))
        return fail_image(image,
                          "it is encrypted; serve it with qemu-nbd or qemu-storage-daemon, which "
                          "accept the key, and mount the NBD URI",
                          error);
    return true;
}

/* Records WHY the image cannot be served in a jail. */
static void leave_open(FlImage *image, const char *why)
{
    if (image->open == NULL)
        image->open = g_strdup(why);
}

FlJail *fl_image_jail(FlImage *image, const char *program)
{
    g_autoptr(FlJail) jail = NULL;
    g_autoptr(GError) failure = NULL;

    if (image->open != NULL)
        return NULL;
    jail = fl_jail_new(program);
    for (guint i = 0; i < image->files->len; i++)
        fl_jail_add_file(jail, image->files->pdata[i]);
    if (fl_jail_prepare(jail, &failure))
        return g_steal_pointer(&jail);
    leave_open(image, failure->message);
    return NULL;
}

/* Returns the output of qemu-img. */
static JsonObject *ask_tool(FlImage *image, const char *path, const char *format, void *opaque,
                            GError **error)
{
    const char *const probe[] = {"qemu-img", "info", "--output=json", "--", path, NULL};
    const char *const given[] = {"qemu-img",      "info", "-f", format,
                                 "--output=json", "--",   path, NULL};
    g_autoptr(FlJail) jail = fl_jail_new("qemu-img");
    g_autoptr(GError) failure = NULL;
    g_autofree char *output = NULL;
    bool jailed;

    fl_jail_add_file(jail, path);
    jailed = fl_jail_prepare(jail, &failure);
    if (!jailed)
        leave_open(image, failure->message);
    output = fl_process_output(format != NULL ? given : probe, jailed ? jail : NULL, PROBE_SECONDS,
                               error);
    return output != NULL ? fl_json_parse(output, strlen(output), error) : NULL;
}

static bool check_file(const char *path, const char *format, const char *data_file, void *opaque,
                       GError **error)
{
    return fl_image_check_whole(path, format, data_file, error);
}

static const FlImageProber local = {.look = look_at_file, .ask = ask_tool, .check = check_file};

/* QEMU's file names are paths, or start with a protocol. */
static const char *as_path(const char *name)
{
    const char *rest = g_str_has_prefix(name, "file:") ? name + strlen("file:") : name;
    const char *colon = strchr(rest, ':'), *slash = strchr(rest, '/');

    return colon == NULL || (slash != NULL && slash < colon) ? rest : NULL;
}

/* Adds the file that NAME refers to in an image at PATH. Returns NULL if it is not a file. */
static const char *add_file(FlImage *image, const char *path, const char *name)
{
    const char *file = as_path(name);
    g_autofree char *folder = g_path_get_dirname(path);

    if (file == NULL) {
        g_autofree char *why = g_strdup_printf("its backing file %s is not a file", name);

        leave_open(image, why);
        return NULL;
    }
    g_ptr_array_add(image->files, g_path_is_absolute(file) ? g_strdup(file)
                                                           : g_build_filename(folder, file, NULL));
    return image->files->pdata[image->files->len - 1];
}

/* An image that is being probed. */
typedef struct {
    const FlImageProber *prober;
    void *opaque;
    FlImage *image;
} Probe;

/* Fails with WHY the chain is unsuitable if the prober is strict. */
static bool tolerate(const Probe *probe, const char *why, GError **error)
{
    return !probe->prober->strict || fail_image(probe->image, why, error);
}

static bool check_whole(const Probe *probe, const char *path, const char *format,
                        const char *data_file, GError **error)
{
    g_autoptr(GError) failure = NULL;
    g_autofree char *message = NULL;

    if (probe->prober->check(path, format, data_file, probe->opaque, &failure))
        return true;
    if (strcmp(path, probe->image->path) != 0)
        message = g_strdup_printf("backing file %s: %s", path, failure->message);
    return fail_image(probe->image, message != NULL ? message : failure->message, error);
}

/* Sets INFO to that of the backing file of INFO, of the file at PATH, and PATH to its path. INFO
 * becomes NULL at the end of the chain. */
static bool go_down(const Probe *probe, JsonObject **info, const char **path, GError **error)
{
    g_autoptr(JsonObject) here = g_steal_pointer(info);
    const char *backing = fl_json_string(here, "full-backing-filename");
    const char *format = fl_json_string(here, "backing-filename-format");
    g_autoptr(GError) failure = NULL;

    if (backing == NULL)
        backing = fl_json_string(here, "backing-filename");
    if (backing == NULL)
        return true;
    *path = add_file(probe->image, *path, backing);
    if (*path == NULL)
        return tolerate(probe, probe->image->open, error);
    if (format == NULL && !tolerate(probe,
                                    "the format of its backing file is not recorded, and not safe "
                                    "to detect; record it with qemu-img rebase -u -F",
                                    error))
        return false;
    *info = probe->prober->ask(probe->image, *path, format, probe->opaque, &failure);
    return *info != NULL || tolerate(probe, failure->message, error);
}

/* Follows the chain from INFO, of the image's own file. The storage daemon will detect any other
 * fault of the chain. */
static bool find_chain(const Probe *probe, JsonObject *info, GError **error)
{
    g_autoptr(JsonObject) here = json_object_ref(info);
    FlImage *image = probe->image;
    const char *path = image->path;

    for (unsigned depth = 0; here != NULL; depth++) {
        JsonObject *specific = fl_json_object(here, "format-specific");
        JsonObject *data = specific != NULL ? fl_json_object(specific, "data") : NULL;
        const char *data_file = data != NULL ? fl_json_string(data, "data-file") : NULL;

        if (depth > CHAIN_MAX) {
            leave_open(image, "its chain of backing files is too long");
            return tolerate(probe, image->open, error);
        }
        if (data_file != NULL) {
            data_file = add_file(image, path, data_file);
            if (data_file == NULL && !tolerate(probe, image->open, error))
                return false;
            if (data_file != NULL && depth == 0)
                image->own++;
        }
        if (!check_whole(probe, path, fl_json_string(here, "format"), data_file, error) ||
            !go_down(probe, &here, &path, error))
            return false;
    }
    return true;
}

static bool probe_chain(const Probe *probe, const char *format, GError **error)
{
    FlImage *image = probe->image;
    g_autoptr(JsonObject) info = NULL;
    g_autoptr(GError) failure = NULL;

    if (!probe->prober->look(image, format, probe->opaque, &failure))
        return fail_image(image, failure->message, error);
    if (!g_utf8_validate(image->path, -1, NULL))
        return fail_image(image, "its path is not valid UTF-8, which QEMU requires; rename it",
                          error);
    info = probe->prober->ask(image, image->path, format, probe->opaque, &failure);
    if (info == NULL)
        return fail_image(image, failure->message, error);
    return take_info(image, info, error) && find_chain(probe, info, error);
}

static char *export_name(const char *path)
{
    char *name = g_path_get_basename(path);
    char *dot = strrchr(name, '.');

    if (dot != NULL && dot != name)
        *dot = '\0';
    return name;
}

FlImage *fl_image_probe_by(const FlImageProber *prober, void *opaque, const char *path,
                           const char *format, unsigned number, GError **error)
{
    g_autoptr(FlImage) image = g_new0(FlImage, 1);
    g_autofree char *folder = g_get_current_dir();

    /* Not g_canonicalize_filename(): it would resolve ".." after a symbolic link wrongly. */
    image->path = g_path_is_absolute(path) ? g_strdup(path) : g_build_filename(folder, path, NULL);
    image->node = g_strdup_printf("image-%u", number);
    image->guard_node = g_strdup_printf("guard-%u", number);
    image->union_node = g_strdup_printf("union-%u", number);
    image->info.bitmaps = g_ptr_array_new_with_free_func((GDestroyNotify)fl_bitmap_free);
    image->merged = g_ptr_array_new_with_free_func(g_free);
    image->files = g_ptr_array_new_with_free_func(g_free);
    image->others = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_ptr_array_add(image->files, g_strdup(image->path));
    image->own = 1;
    if (!probe_chain(&(Probe){prober, opaque, image}, format, error))
        return NULL;
    image->info.name = export_name(image->path);
    return g_steal_pointer(&image);
}

FlImage *fl_image_probe(const char *path, const char *format, GError **error)
{
    return fl_image_probe_by(&local, NULL, path, format, 0, error);
}

static JsonNode *string_array(const char *const *strings, size_t n)
{
    JsonNode *node = json_node_new(JSON_NODE_ARRAY);
    JsonArray *array = json_array_new();

    for (size_t i = 0; i < n; i++)
        json_array_add_string_element(array, strings[i]);
    json_node_take_array(node, array);
    return node;
}

static bool add_image_node(const FlImage *image, FlQmp *qmp, GError **error)
{
    JsonNode *file =
        fl_qmp_args(fl_qmp_string("driver", image->block_device ? "host_device" : "file"),
                    fl_qmp_string("filename", image->path));

    return fl_qmp_call(qmp, "blockdev-add",
                       fl_qmp_args(fl_qmp_string("driver", image->info.format),
                                   fl_qmp_string("node-name", image->node),
                                   fl_qmp_bool("read-only", true), fl_qmp_node("file", file)),
                       NULL, error);
}

/*
 * Keeps writers away. A raw image and the NBD server both let others write to what they read, so a
 * disk could be served while a VM changes it. This node on top of the image forbids that; no data
 * passes through it.
 */
static bool add_guard_node(const FlImage *image, FlQmp *qmp, GError **error)
{
    static const char *const unshared[] = {"write", "resize"};

    return fl_qmp_call(qmp, "blockdev-add",
                       fl_qmp_args(fl_qmp_string("driver", "blkdebug"),
                                   fl_qmp_string("node-name", image->guard_node),
                                   fl_qmp_string("image", image->node),
                                   fl_qmp_node("unshare-child-perms",
                                               string_array(unshared, G_N_ELEMENTS(unshared)))),
                       NULL, error);
}

static bool add_export(const FlImage *image, FlQmp *qmp, GError **error)
{
    JsonArray *served = json_array_new();

    for (guint i = 0; i < image->info.bitmaps->len; i++) {
        const FlBitmap *bitmap = image->info.bitmaps->pdata[i];
        if (!fl_bitmap_is_whole(bitmap))
            continue;
        /* QEMU before 7.1 accepts only names here, of the image's own bitmaps. */
        if (!g_ptr_array_find_with_equal_func(image->merged, bitmap->name, g_str_equal, NULL))
            json_array_add_string_element(served, bitmap->name);
        else
            json_array_add_element(served, fl_qmp_args(fl_qmp_string("node", image->union_node),
                                                       fl_qmp_string("name", bitmap->name)));
    }
    return fl_qmp_call(qmp, "block-export-add",
                       fl_qmp_args(fl_qmp_string("type", "nbd"), fl_qmp_string("id", image->node),
                                   fl_qmp_string("node-name", image->node),
                                   fl_qmp_string("name", image->info.name),
                                   fl_qmp_bool("allocation-depth", true),
                                   fl_qmp_node("bitmaps", fl_json_array_node(served))),
                       NULL, error);
}

bool fl_image_export(FlImage *image, FlQmp *qmp, GError **error)
{
    g_autoptr(GError) failure = NULL;

    return (fl_image_find_others(image, qmp, &failure) && add_image_node(image, qmp, &failure) &&
            add_guard_node(image, qmp, &failure) && fl_image_find_bitmaps(image, qmp, &failure) &&
            add_export(image, qmp, &failure)) ||
           fail_image(image, failure->message, error);
}
