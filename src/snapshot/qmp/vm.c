/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "snapshot/qmp/vm.h"

#include "qemu/json.h"
#include "util/file-id.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* What a backup requires of QEMU, and the version that introduced it. */
static const struct {
    const char *command, *member;
    const char *since;
} needed[] = {
    {"transaction", NULL, "4.0"},
    {"block-dirty-bitmap-merge", NULL, "4.0"},
    {"blockdev-create", NULL, "3.0"},
    {"blockdev-backup", "filter-node-name", "4.2"},
    {"block-set-write-threshold", NULL, "2.3"},
    {"block-export-add", NULL, "5.2"},
    {"query-block-exports", NULL, "5.2"},
};

static void free_bitmap(gpointer data)
{
    FlVmBitmap *bitmap = data;

    g_free(bitmap->name);
    g_free(bitmap);
}

static void free_disk(gpointer data)
{
    FlVmDisk *disk = data;

    g_free(disk->name);
    g_free(disk->node);
    g_free(disk->qdev);
    g_free(disk->driver);
    g_free(disk->file);
    g_free(disk->backing);
    g_ptr_array_unref(disk->below);
    g_ptr_array_unref(disk->bitmaps);
    g_free(disk);
}

/* Indexes the types of the schema by name. They belong to REPLY. */
static GHashTable *index_schema(JsonNode *reply)
{
    GHashTable *types = g_hash_table_new(g_str_hash, g_str_equal);
    JsonArray *array = fl_json_as_array(reply);

    for (guint i = 0; i < fl_json_length(array); i++) {
        JsonObject *type = fl_json_element(array, i);
        const char *name = fl_json_string(type, "name");
        if (name != NULL)
            g_hash_table_insert(types, (gpointer)name, type);
    }
    return types;
}

/* Whether COMMAND exists and, unless MEMBER is NULL, takes that argument. */
static bool has(GHashTable *types, const char *command, const char *member)
{
    JsonObject *type = g_hash_table_lookup(types, command);
    const char *argument = fl_json_string(type, "arg-type");
    JsonArray *members;

    if (type == NULL || g_strcmp0(fl_json_string(type, "meta-type"), "command") != 0)
        return false;
    if (member == NULL)
        return true;
    if (argument == NULL)
        return false;
    members = fl_json_array(g_hash_table_lookup(types, argument), "members");
    for (guint i = 0; i < fl_json_length(members); i++) {
        if (g_strcmp0(fl_json_string(fl_json_element(members, i), "name"), member) == 0)
            return true;
    }
    return false;
}

static bool query_version(FlQmp *qmp, FlVmVersion *version, GError **error)
{
    g_autoptr(JsonNode) said = NULL;
    JsonObject *numbers;

    if (!fl_qmp_call(qmp, "query-version", NULL, &said, error))
        return false;
    numbers = fl_json_object(fl_json_as_object(said), "qemu");
    version->major = (unsigned)fl_json_int(numbers, "major");
    version->minor = (unsigned)fl_json_int(numbers, "minor");
    version->micro = (unsigned)fl_json_int(numbers, "micro");
    return true;
}

/* Encodes a version as a number that compares in version order. */
static unsigned version_number(unsigned major, unsigned minor, unsigned micro)
{
    return major * 10000 + minor * 100 + micro;
}

bool fl_vm_is_since(FlQmp *qmp, unsigned major, unsigned minor, unsigned micro)
{
    FlVmVersion version;

    return query_version(qmp, &version, NULL) &&
           version_number(version.major, version.minor, version.micro) >=
               version_number(major, minor, micro);
}

bool fl_vm_check(FlQmp *qmp, FlVmVersion *version, GError **error)
{
    g_autoptr(JsonNode) schema = NULL;
    g_autoptr(GHashTable) types = NULL;

    if (!query_version(qmp, version, error) ||
        !fl_qmp_call(qmp, "query-qmp-schema", NULL, &schema, error))
        return false;
    types = index_schema(schema);
    for (size_t i = 0; i < G_N_ELEMENTS(needed); i++) {
        if (!has(types, needed[i].command, needed[i].member))
            return fl_fail(error, "this QEMU (%u.%u.%u) has no %s%s%s, which requires %s",
                           version->major, version->minor, version->micro, needed[i].command,
                           needed[i].member != NULL ? " with " : "",
                           needed[i].member != NULL ? needed[i].member : "", needed[i].since);
    }
    return true;
}

bool fl_vm_identify(FlQmp *qmp, char **uuid, char **name, GError **error)
{
    g_autoptr(JsonNode) said = NULL, called = NULL;
    const char *given;

    if (!fl_qmp_call(qmp, "query-uuid", NULL, &said, error) ||
        !fl_qmp_call(qmp, "query-name", NULL, &called, error))
        return false;
    given = fl_json_string(fl_json_as_object(said), "UUID");
    *uuid = given != NULL && g_uuid_string_is_valid(given) && strspn(given, "0-") != strlen(given)
                ? g_strdup(given)
                : NULL;
    *name = g_strdup(fl_json_string(fl_json_as_object(called), "name"));
    return true;
}

char *fl_vm_key(const char *uuid, const char *monitor)
{
    char resolved[PATH_MAX];

    if (uuid != NULL)
        return g_strdup(uuid);
    return g_strdup(realpath(monitor, resolved) != NULL ? resolved : monitor);
}

static GPtrArray *parse_bitmaps(JsonArray *array)
{
    GPtrArray *bitmaps = g_ptr_array_new_with_free_func(free_bitmap);

    for (guint i = 0; i < fl_json_length(array); i++) {
        JsonObject *object = fl_json_element(array, i);
        const char *name = fl_json_string(object, "name");
        FlVmBitmap *bitmap;

        if (name == NULL) /* internal bitmap of a QEMU job */
            continue;
        bitmap = g_new0(FlVmBitmap, 1);
        bitmap->name = g_strdup(name);
        bitmap->granularity = (uint64_t)fl_json_int(object, "granularity");
        bitmap->dirty = (uint64_t)fl_json_int(object, "count");
        bitmap->busy = fl_json_bool(object, "busy");
        bitmap->inconsistent = fl_json_bool(object, "inconsistent");
        g_ptr_array_add(bitmaps, bitmap);
    }
    return bitmaps;
}

/* Makes up a name for a disk whose node has no user-given name. */
static char *name_disk(const char *node, const char *device, const char *qdev)
{
    const char *slash = qdev != NULL ? strrchr(qdev, '/') : NULL;

    if (*node != '#')
        return g_strdup(node);
    if (device != NULL && *device != '\0')
        return g_strdup(device);
    if (slash != NULL && g_str_has_suffix(qdev, "/virtio-backend")) {
        g_autofree char *parent = g_strndup(qdev, (gsize)(slash - qdev));
        return g_path_get_basename(parent);
    }
    return g_strdup(slash != NULL ? slash + 1 : node);
}

/* query-block reports a device's id if it has one, else its path. */
static char *device_path(const char *qdev)
{
    if (qdev == NULL || *qdev == '\0')
        return NULL;
    return *qdev == '/' ? g_strdup(qdev) : g_strconcat("/machine/peripheral/", qdev, NULL);
}

bool fl_vm_is_inactive(JsonObject *node)
{
    /* Older versions do not report it; for those the run state has to suffice. */
    return fl_json_value(node, "active", G_TYPE_BOOLEAN) != NULL && !fl_json_bool(node, "active");
}

static const char *data_file_of(JsonObject *image)
{
    return fl_json_string(fl_json_object(fl_json_object(image, "format-specific"), "data"),
                          "data-file");
}

/* Returns the names of the backing images of IMAGE, and of their data files. */
static GPtrArray *parse_backing(JsonObject *image)
{
    GPtrArray *names = g_ptr_array_new_with_free_func(g_free);

    while ((image = fl_json_object(image, "backing-image")) != NULL) {
        const char *name = fl_json_string(image, "filename"), *data = data_file_of(image);

        g_ptr_array_add(names, g_strdup(name != NULL ? name : ""));
        if (data != NULL)
            g_ptr_array_add(names, g_strdup(data));
    }
    return names;
}

static FlVmDisk *parse_disk(JsonObject *object)
{
    JsonObject *inserted = fl_json_object(object, "inserted");
    JsonObject *image = fl_json_object(inserted, "image");
    JsonObject *specific = fl_json_object(fl_json_object(image, "format-specific"), "data");
    const char *node = fl_json_string(inserted, "node-name");
    const char *qdev = fl_json_string(object, "qdev");
    const char *driver = fl_json_string(inserted, "drv");
    gint64 size = fl_json_int(image, "virtual-size");
    FlVmDisk *disk;

    if (node == NULL)
        return NULL;
    disk = g_new0(FlVmDisk, 1);
    disk->name = name_disk(node, fl_json_string(object, "device"), qdev);
    disk->node = g_strdup(node);
    disk->qdev = device_path(qdev);
    disk->driver = g_strdup(driver != NULL ? driver : "");
    disk->file = g_strdup(fl_json_string(image, "filename"));
    disk->below = parse_backing(image);
    disk->size = size > 0 ? (uint64_t)size : 0;
    disk->left_out = fl_json_bool(object, "removable") ? "removable"
                     : fl_json_bool(inserted, "ro")    ? "read-only"
                     : size <= 0                       ? "empty"
                                                       : NULL;
    disk->writable = disk->left_out == NULL;
    disk->read_only = !disk->writable && fl_json_bool(inserted, "ro") && size > 0;
    /* "io-status" exists only if QEMU can stop the guest on errors, which some devices cannot. */
    disk->reports = disk->qdev != NULL && !json_object_has_member(object, "io-status");
    disk->inactive = fl_vm_is_inactive(inserted);
    /* Version 2 of qcow2 cannot store bitmaps. */
    disk->persistent = g_str_equal(disk->driver, "qcow2") &&
                       g_strcmp0(fl_json_string(specific, "compat"), "0.10") != 0;
    disk->has_job = g_str_equal(disk->driver, "copy-before-write") ||
                    g_str_equal(disk->driver, "mirror_top") ||
                    g_str_equal(disk->driver, "commit_top");
    disk->bitmaps = parse_bitmaps(fl_json_array(inserted, "dirty-bitmaps"));
    return disk;
}

FlVmDisk *fl_vm_disk_new_foreign(const char *name)
{
    FlVmDisk *disk = g_new0(FlVmDisk, 1);

    disk->name = g_strdup(name);
    disk->node = g_strdup("");
    disk->driver = g_strdup("");
    disk->left_out = "a vhost-user disk, which belongs to another process";
    disk->foreign = true;
    disk->below = parse_backing(NULL);
    disk->bitmaps = parse_bitmaps(NULL);
    return disk;
}

GPtrArray *fl_vm_parse_disks(JsonNode *reply)
{
    GPtrArray *disks = g_ptr_array_new_with_free_func(free_disk);
    JsonArray *array = fl_json_as_array(reply);

    for (guint i = 0; i < fl_json_length(array); i++) {
        FlVmDisk *disk = parse_disk(fl_json_element(array, i));
        if (disk != NULL)
            g_ptr_array_add(disks, disk);
    }
    return disks;
}

GPtrArray *fl_vm_disks(FlQmp *qmp, GError **error)
{
    g_autoptr(JsonNode) reply = NULL;
    GPtrArray *disks;

    if (!fl_qmp_call(qmp, "query-block", NULL, &reply, error))
        return NULL;
    disks = fl_vm_parse_disks(reply);
    for (guint i = 0; i < disks->len; i++) {
        FlVmDisk *disk = g_ptr_array_index(disks, i);
        disk->backing = fl_file_ids(disk->below);
    }
    return disks;
}

/* Returns a string property; NULL if there is none. */
static char *qom_string(FlQmp *qmp, const char *path, const char *property)
{
    g_autoptr(JsonNode) reply = NULL;

    if (!fl_qmp_call(qmp, "qom-get",
                     fl_qmp_args(fl_qmp_string("path", path), fl_qmp_string("property", property)),
                     &reply, NULL) ||
        json_node_get_value_type(reply) != G_TYPE_STRING)
        return NULL;
    return json_node_dup_string(reply);
}

/* Whether PATH is TOP or below it. */
static bool is_below(const char *path, const char *top)
{
    size_t length = strlen(top);

    return path != NULL && strncmp(path, top, length) == 0 &&
           (path[length] == '\0' || path[length] == '/');
}

bool fl_vm_in_iothread(FlQmp *qmp, const char *qdev, bool *iothread, GError **error)
{
    static const char *const tops[] = {"/machine/peripheral", "/machine/peripheral-anon"};
    g_autofree char *bus = NULL;

    *iothread = false;
    if (qdev == NULL)
        return true;
    /* The iothread is a property of the disk or, for virtio-scsi, of the controller of its bus. */
    bus = qom_string(qmp, qdev, "parent_bus");
    for (size_t i = 0; i < G_N_ELEMENTS(tops); i++) {
        g_autoptr(JsonNode) reply = NULL;
        JsonArray *devices;

        if (!fl_qmp_call(qmp, "qom-list", fl_qmp_args(fl_qmp_string("path", tops[i])), &reply,
                         error))
            return false;
        devices = fl_json_as_array(reply);
        for (guint k = 0; k < fl_json_length(devices); k++) {
            const char *name = fl_json_string(fl_json_element(devices, k), "name");
            g_autofree char *device = g_strdup_printf("%s/%s", tops[i], name != NULL ? name : "");
            g_autofree char *thread = NULL;

            if (!is_below(qdev, device) && !is_below(bus, device))
                continue;
            thread = qom_string(qmp, device, "iothread");
            *iothread = *iothread || (thread != NULL && *thread != '\0');
        }
    }
    return true;
}
