/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Disk properties that only a VM's devices know, not the block layer. */
#include "snapshot/qmp/vm.h"

#include "qemu/json.h"

#include <string.h>

/* Devices whose data another process serves: QEMU has no block node for them. */
static const char *const foreign[] = {"vhost-user-blk", "vhost-user-scsi", "vhost-scsi"};

static bool is_foreign(const char *type)
{
    for (size_t i = 0; i < G_N_ELEMENTS(foreign); i++) {
        if (type != NULL && g_str_has_prefix(type, "child<") &&
            g_str_has_prefix(type + strlen("child<"), foreign[i]))
            return true;
    }
    return false;
}

static void add_foreign(FlQmp *qmp, const char *top, GPtrArray *disks)
{
    g_autoptr(JsonNode) reply = NULL;
    JsonArray *devices;

    if (!fl_qmp_call(qmp, "qom-list", fl_qmp_args(fl_qmp_string("path", top)), &reply, NULL))
        return;
    devices = fl_json_as_array(reply);
    for (guint i = 0; i < fl_json_length(devices); i++) {
        JsonObject *device = fl_json_element(devices, i);
        const char *name = fl_json_string(device, "name");

        if (name != NULL && is_foreign(fl_json_string(device, "type")))
            g_ptr_array_add(disks, fl_vm_disk_new_foreign(name));
    }
}

/* Returns PROPERTY of the device; NULL if it has none. */
static JsonNode *get_property(FlQmp *qmp, const char *device, const char *property)
{
    JsonNode *reply = NULL;

    if (device != NULL)
        fl_qmp_call(qmp, "qom-get",
                    fl_qmp_args(fl_qmp_string("path", device), fl_qmp_string("property", property)),
                    &reply, NULL);
    return reply;
}

/* share-rw: QEMU lets other writers open the image. */
static bool is_shared(FlQmp *qmp, const char *device)
{
    g_autoptr(JsonNode) value = get_property(qmp, device, "share-rw");

    return value != NULL && json_node_get_value_type(value) == G_TYPE_BOOLEAN &&
           json_node_get_boolean(value);
}

static bool reports(FlQmp *qmp, const char *device)
{
    g_autoptr(JsonNode) value = get_property(qmp, device, "werror");
    const char *policy = value != NULL && json_node_get_value_type(value) == G_TYPE_STRING
                             ? json_node_get_string(value)
                             : NULL;

    return g_strcmp0(policy, "report") == 0 || g_strcmp0(policy, "ignore") == 0;
}

void fl_vm_look_at_devices(FlQmp *qmp, GPtrArray *disks)
{
    for (guint i = 0; i < disks->len; i++) {
        FlVmDisk *disk = g_ptr_array_index(disks, i);
        disk->shared = is_shared(qmp, disk->qdev);
        disk->reports = disk->reports || reports(qmp, disk->qdev);
    }
    add_foreign(qmp, "/machine/peripheral", disks);
    add_foreign(qmp, "/machine/peripheral-anon", disks);
}
