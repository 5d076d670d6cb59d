/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "stored-private.h"

#include "qemu/json.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define JSON_MAX   (16u << 20)
#define DEPTH_MAX  32
#define IMAGES_MAX 100000
/* Folders may be empty, but reading them takes time. */
#define FOLDERS_MAX 1000000
/* Bytes of a text that becomes part of an image: longer than any name or path. */
#define TEXT_MAX 8192
/* Bytes of all that is remembered. A real image takes one or two KiB. */
#define REMEMBER_MAX (UINT64_C(512) << 20)
/* An entry of a list or table. */
#define ENTRY_BYTES 256u
#define NO_UUID     "00000000-0000-0000-0000-000000000000"

/* What is needed of the vm.json of a generation. */
typedef struct {
    FlStoredVm vm;
    char *generation; /* its name; NULL: not recorded */
    gint64 number;
} Generation;

typedef struct {
    FlStored *stored;
    GHashTable *generations; /* Generation by folder */
    uint64_t folders;        /* read so far */
    char *excess;            /* why reading has ended early; NULL: it has not */
} Reading;

static void vm_clear(FlStoredVm *vm)
{
    g_free(vm->uuid);
    g_free(vm->name);
    g_free(vm->source);
}

static void vm_free(gpointer data)
{
    vm_clear(data);
    g_free(data);
}

static void image_free(gpointer data)
{
    FlStoredImage *image = data;

    g_free(image->path);
    g_free(image->map);
    g_free(image->home);
    g_free(image->disk);
    g_free(image->point);
    g_free(image->base);
    g_free(image->disk_id);
    g_free(image->generation);
    if (image->fault != NULL)
        g_ref_string_release(image->fault);
    vm_clear(&image->said);
    g_free(image);
}

static void generation_free(gpointer data)
{
    Generation *generation = data;

    vm_clear(&generation->vm);
    g_free(generation->generation);
    g_free(generation);
}

void fl_stored_free(FlStored *stored)
{
    if (stored == NULL)
        return;
    g_free(stored->top);
    g_ptr_array_unref(stored->images);
    g_ptr_array_unref(stored->vms);
    g_ptr_array_unref(stored->damaged);
    fl_budget_give_back(stored->budget, stored->taken);
    fl_budget_unref(stored->budget);
    g_free(stored);
}

/* Whether PATH has the file type TYPE; symbolic links are not followed. */
static bool is_there(const char *path, mode_t type)
{
    struct stat st;

    return lstat(path, &st) == 0 && (st.st_mode & S_IFMT) == type;
}

static char *read_file(const char *path, gsize *length, GError **error)
{
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    g_autofree char *text = NULL;
    struct stat st;
    ssize_t n;

    if (fd < 0) {
        fl_fail(error, "%s", errno == ELOOP ? "it is a symbolic link" : g_strerror(errno));
        return NULL;
    }
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        fl_fail(error, "it is not a regular file");
    } else if (st.st_size > JSON_MAX) {
        fl_fail(error, "it is too large");
    } else {
        text = g_malloc((gsize)st.st_size + 1);
        for (*length = 0; *length < (gsize)st.st_size; *length += (gsize)n) {
            n = read(fd, text + *length, (gsize)st.st_size - *length);
            if (n <= 0)
                break;
        }
        text[*length] = '\0';
    }
    close(fd);
    return g_steal_pointer(&text);
}

/* Charges BYTES to the budget; ends reading if they are too many. */
static bool remember(Reading *reading, uint64_t bytes)
{
    FlStored *stored = reading->stored;

    if (reading->excess != NULL)
        return false;
    if (stored->taken > REMEMBER_MAX - bytes ||
        !fl_budget_take(stored->budget, bytes, UINT64_MAX)) {
        reading->excess = g_strdup("the descriptions of its backups need too much memory");
        return false;
    }
    stored->taken += bytes;
    return true;
}

static void damaged(Reading *reading, const char *path, const char *why)
{
    if (remember(reading, ENTRY_BYTES + strlen(path) + strlen(why)))
        g_ptr_array_add(reading->stored->damaged, g_strdup_printf("%s: %s", path, why));
}

static bool has_long_text(JsonObject *said)
{
    static const char *const names[] = {"restore_point", "disk_id",      "base", "snapshot",
                                        "called",        "generation",   "uuid", "source",
                                        "name",          "point_in_time"};

    for (size_t i = 0; i < G_N_ELEMENTS(names); i++) {
        const char *text = fl_json_string(said, names[i]);

        if (text != NULL && strlen(text) > TEXT_MAX)
            return true;
    }
    return false;
}

/* Returns NULL and records a fault if the file cannot be read. */
static JsonObject *read_json(Reading *reading, const char *path)
{
    g_autoptr(GError) error = NULL;
    gsize length = 0;
    g_autofree char *text = read_file(path, &length, &error);
    g_autoptr(JsonObject) said = text != NULL ? fl_json_parse(text, length, &error) : NULL;

    if (said != NULL && !has_long_text(said) && !has_long_text(fl_json_object(said, "vm")))
        return g_steal_pointer(&said);
    damaged(reading, path, said != NULL ? "a text in it is too long" : error->message);
    return NULL;
}

static char *text_of(JsonObject *said, const char *name)
{
    const char *text = fl_json_string(said, name);

    return text != NULL && *text != '\0' ? g_strdup(text) : NULL;
}

static FlStoredVm take_vm(JsonObject *said)
{
    JsonObject *vm = fl_json_object(said, "vm");
    FlStoredVm taken = {.uuid = text_of(vm, "uuid"),
                        .source = text_of(vm, "source"),
                        .name = text_of(said, "called")};

    if (taken.name == NULL)
        taken.name = text_of(vm, "name");
    if (taken.uuid != NULL) {
        g_autofree char *uuid = taken.uuid;
        taken.uuid = g_str_equal(uuid, NO_UUID) ? NULL : g_ascii_strdown(uuid, -1);
    }
    return taken;
}

static uint64_t bytes_of(const char *text)
{
    return text != NULL ? strlen(text) + 1 : 0;
}

static uint64_t vm_bytes(const FlStoredVm *vm)
{
    return bytes_of(vm->uuid) + bytes_of(vm->name) + bytes_of(vm->source);
}

/* Returns what vm.json in FOLDER says; empty if there is none. */
static const Generation *generation_of(Reading *reading, const char *folder)
{
    Generation *generation = g_hash_table_lookup(reading->generations, folder);
    g_autofree char *path = g_build_filename(folder, "vm.json", NULL);
    g_autoptr(JsonObject) said = NULL;
    JsonNode *number;

    if (generation != NULL)
        return generation;
    said = is_there(path, S_IFREG) ? read_json(reading, path) : NULL;
    number = fl_json_value(said, "number", G_TYPE_INT64);
    generation = g_new0(Generation, 1);
    generation->vm = take_vm(said);
    generation->generation = text_of(said, "generation");
    generation->number = number != NULL ? MAX(json_node_get_int(number), -1) : -1;
    g_hash_table_insert(reading->generations, g_strdup(folder), generation);
    remember(reading, ENTRY_BYTES + strlen(folder) + vm_bytes(&generation->vm) +
                          bytes_of(generation->generation));
    return generation;
}

/* Returns the recorded time, or else that of the image files. */
static struct timespec time_of(JsonObject *info, const char *home)
{
    g_autoptr(GTimeZone) utc = g_time_zone_new_utc();
    const char *text = fl_json_string(info, "point_in_time");
    g_autoptr(GDateTime) time = text != NULL ? g_date_time_new_from_iso8601(text, utc) : NULL;
    struct stat st;

    if (time != NULL)
        return (struct timespec){.tv_sec = g_date_time_to_unix(time),
                                 .tv_nsec = g_date_time_get_microsecond(time) * 1000L};
    return stat(home, &st) == 0 ? st.st_mtim : (struct timespec){0};
}

static FlStoredVm copy_vm(const FlStoredVm *vm)
{
    return (FlStoredVm){
        .uuid = g_strdup(vm->uuid), .name = g_strdup(vm->name), .source = g_strdup(vm->source)};
}

/* The memory of IMAGE, of a VM of its own, and of a fault that names two files and a point. */
static uint64_t image_bytes(const FlStoredImage *image)
{
    return sizeof *image + ENTRY_BYTES + 3 * bytes_of(image->path) + bytes_of(image->map) +
           bytes_of(image->home) + 2 * bytes_of(image->disk) + bytes_of(image->point) +
           2 * bytes_of(image->base) + bytes_of(image->disk_id) + bytes_of(image->generation) +
           2 * vm_bytes(&image->said);
}

/* Adds the image FILE, relative to HOME, described by INFO. BASE NULL: it is a full backup. */
static void add_image(Reading *reading, const char *home, const char *file, FlStoredForm form,
                      JsonObject *info, const char *base)
{
    g_autofree char *generation_folder = g_path_get_dirname(home);
    const Generation *generation = generation_of(reading, generation_folder);
    FlStoredImage *image = g_new0(FlStoredImage, 1);

    image->path = g_build_filename(home, file, NULL);
    image->home = g_strdup(home);
    image->disk = g_path_get_basename(home);
    image->form = form;
    image->size = (uint64_t)fl_json_int(info, "size");
    image->time = time_of(info, home);
    image->point = text_of(info, "restore_point");
    image->disk_id = text_of(info, "disk_id");
    image->base = g_strdup(base);
    if (base != NULL && form == FL_STORED_RAW) {
        g_autofree char *stem = g_strndup(image->path, strlen(image->path) - strlen("raw"));
        image->map = g_strconcat(stem, "ddrescue", NULL);
    }
    image->said = generation->vm.uuid != NULL || generation->vm.source != NULL
                      ? copy_vm(&generation->vm)
                      : take_vm(info);
    image->generation = g_strdup(generation->generation);
    if (image->generation == NULL)
        image->generation = text_of(info, "snapshot");
    if (image->generation == NULL)
        image->generation = g_path_get_basename(generation_folder);
    image->number = generation->number;
    g_ptr_array_add(reading->stored->images, image);
    remember(reading, image_bytes(image));
}

/* Returns the base of the increment since bitmap NAME; NULL if the bitmap is not fleecefs's. */
static const char *base_of(JsonObject *info, const char *name)
{
    JsonArray *contexts = fl_json_array(info, "contexts");

    for (guint i = 0; i < fl_json_length(contexts); i++) {
        JsonObject *context = fl_json_element(contexts, i);
        if (fl_json_string(context, "base") != NULL &&
            g_strcmp0(fl_json_string(context, "bitmap"), name) == 0)
            return fl_json_string(info, "base");
    }
    return NULL;
}

static void add_increments(Reading *reading, const char *home, JsonObject *info)
{
    g_autofree char *folder = g_build_filename(home, "dirty", NULL);
    g_autoptr(GDir) dir = is_there(folder, S_IFDIR) ? g_dir_open(folder, 0, NULL) : NULL;
    const char *name;

    while (dir != NULL && (name = g_dir_read_name(dir)) != NULL) {
        const char *dot = strrchr(name, '.');
        bool raw = g_strcmp0(dot, ".raw") == 0;
        g_autofree char *bitmap = dot != NULL ? g_strndup(name, (gsize)(dot - name)) : NULL;
        g_autofree char *file = g_build_filename("dirty", name, NULL);
        g_autofree char *path = g_build_filename(home, file, NULL);
        const char *base;

        if ((!raw && g_strcmp0(dot, ".qcow2") != 0) || (base = base_of(info, bitmap)) == NULL)
            continue;
        if (is_there(path, S_IFREG))
            add_image(reading, home, file, raw ? FL_STORED_RAW : FL_STORED_QCOW2, info, base);
        else
            damaged(reading, path, "it is not a regular file");
    }
}

/* Adds the images in HOME, a folder with info.json. */
static void add_disk(Reading *reading, const char *home, const char *info_path)
{
    static const struct {
        const char *name;
        FlStoredForm form;
        mode_t type;
    } forms[] = {{"disk.qcow2", FL_STORED_QCOW2, S_IFREG},
                 {"disk.raw", FL_STORED_RAW, S_IFREG},
                 {"split", FL_STORED_PIECES, S_IFDIR}};
    JsonObject *info = read_json(reading, info_path);
    struct stat st;

    if (info == NULL)
        return;
    if (fl_json_int(info, "size") <= 0) {
        damaged(reading, info_path, "the size of its disk is invalid");
    } else {
        for (size_t i = 0; i < G_N_ELEMENTS(forms); i++) {
            g_autofree char *path = g_build_filename(home, forms[i].name, NULL);

            if (is_there(path, forms[i].type))
                add_image(reading, home, forms[i].name, forms[i].form, info, NULL);
            else if (lstat(path, &st) == 0)
                damaged(reading, path, "it is not a regular file");
        }
        add_increments(reading, home, info);
    }
    json_object_unref(info);
}

/* Unfinished backups are hidden, or marked by their name. */
static bool is_left_out(const char *name)
{
    return *name == '.' || g_str_has_suffix(name, ".partial");
}

static void walk(Reading *reading, const char *folder, unsigned depth)
{
    g_autofree char *info = g_build_filename(folder, "info.json", NULL);
    g_autoptr(GError) error = NULL;
    g_autoptr(GDir) dir = g_dir_open(folder, 0, &error);
    struct stat st;
    const char *name;

    if (dir == NULL) {
        damaged(reading, folder, error->message);
        return;
    }
    if (++reading->folders > FOLDERS_MAX || reading->stored->images->len >= IMAGES_MAX) {
        reading->excess =
            g_strdup_printf("it has more than %u folders or %u disks", FOLDERS_MAX, IMAGES_MAX);
        return;
    }
    if (lstat(info, &st) == 0) {
        add_disk(reading, folder, info);
        return;
    }
    while (reading->excess == NULL && (name = g_dir_read_name(dir)) != NULL) {
        g_autofree char *path = g_build_filename(folder, name, NULL);

        if (!is_left_out(name) && depth < DEPTH_MAX && is_there(path, S_IFDIR))
            walk(reading, path, depth + 1);
    }
}

FlStored *fl_stored_read(const char *folder, FlBudget *budget, GError **error)
{
    g_autoptr(FlStored) stored = g_new0(FlStored, 1);
    g_autofree char *real = realpath(folder, NULL);
    g_autofree char *excess = NULL;
    Reading reading = {.stored = stored};

    stored->budget = fl_budget_ref(budget);
    stored->top = g_strdup(real != NULL ? real : folder);
    stored->images = g_ptr_array_new_with_free_func(image_free);
    stored->vms = g_ptr_array_new_with_free_func(vm_free);
    stored->damaged = g_ptr_array_new_with_free_func(g_free);
    if (real == NULL || !is_there(real, S_IFDIR)) {
        fl_fail(error, "backup:%s: %s", folder, real == NULL ? g_strerror(errno) : "not a folder");
        return NULL;
    }
    reading.generations = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, generation_free);
    walk(&reading, real, 0);
    g_hash_table_unref(reading.generations);
    excess = reading.excess;
    if (excess != NULL) {
        fl_fail(error, "backup:%s: %s; name the folder of one VM, or of some", folder, excess);
        return NULL;
    }
    if (stored->images->len == 0 && stored->damaged->len > 0) {
        fl_fail(error, "backup:%s: %s", folder, (char *)stored->damaged->pdata[0]);
        return NULL;
    }
    if (stored->images->len == 0) {
        fl_fail(error,
                "backup:%s contains no backup (disks are found by their info.json); unpack tar "
                "archives first, and mount repositories with restic or borg",
                folder);
        return NULL;
    }
    fl_stored_resolve(stored);
    return g_steal_pointer(&stored);
}
