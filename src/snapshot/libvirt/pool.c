/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* libvirt creates the scratch files and removes them with the job. What remains after a crash are
 * volumes of the pool. */
#include "snapshot/libvirt/session.h"

#include "snapshot/libvirt/markup.h"

#include <libvirt/virterror.h>
#include <stdlib.h>
#include <string.h>

#define USUAL_POOL "default"
/* Microseconds between pool refreshes, for which libvirt opens all volumes. In between, only the
 * space used by the scratch files is queried. */
#define REFRESH_INTERVAL (5 * G_TIME_SPAN_SECOND)

/* Finds the pool by its folder or, without one, by the default name. */
static virStoragePoolPtr find_pool(const FlLibvirtCall *call)
{
    virConnectPtr connection = virDomainGetConnect(call->domain);

    return call->text != NULL ? virStoragePoolLookupByTargetPath(connection, call->text)
                              : virStoragePoolLookupByName(connection, USUAL_POOL);
}

/* CALL->total gets the free bytes of the pool, CALL->string its description. */
static bool ask_room(FlLibvirtCall *call)
{
    virStoragePoolPtr pool = find_pool(call);
    virStoragePoolInfo info;
    bool ok;

    if (pool == NULL)
        return false;
    /* This fails while a volume is being created; the values are older then. */
    virStoragePoolRefresh(pool, 0);
    ok = virStoragePoolGetInfo(pool, &info) == 0 &&
         fl_libvirt_call_take(call, virStoragePoolGetXMLDesc(pool, 0));
    if (ok)
        call->total = info.available;
    else
        fl_libvirt_call_note_error(call);
    virStoragePoolFree(pool);
    return ok;
}

typedef struct {
    char *type, *path;
} Pool;

static void start_pool(void *object, const char *path, const char **names, const char **values)
{
    Pool *pool = object;

    if (g_str_equal(path, "pool") && pool->type == NULL)
        pool->type = g_strdup(fl_markup_attribute(names, values, "type"));
}

static void end_pool(void *object, const char *path, const char *text)
{
    Pool *pool = object;

    if (g_str_equal(path, "pool/target/path") && pool->path == NULL)
        pool->path = g_strdup(text);
}

/* Makes the pool's folder the scratch directory. Fails if it has no folder for files. */
static bool take_pool(FlLibvirtSession *session, const char *xml, GError **error)
{
    static const char *const types[] = {"dir", "fs", "netfs", NULL};
    Pool pool = {0};
    const FlMarkupReader reader = {.object = &pool, .start = start_pool, .end = end_pool};
    bool ok = fl_markup_read(&reader, xml, error);

    if (ok && (pool.type == NULL || !g_strv_contains(types, pool.type) || pool.path == NULL ||
               pool.path[0] != '/')) {
        ok = fl_fail(error,
                     "the storage pool there does not contain files (type %s); choose the "
                     "folder of another pool with -o scratch=DIR",
                     pool.type != NULL ? pool.type : "unknown");
    } else if (ok) {
        g_free(session->scratch);
        session->scratch = g_steal_pointer(&pool.path);
    }
    g_free(pool.type);
    g_free(pool.path);
    return ok;
}

bool fl_pool_room(FlLibvirtSession *session, uint64_t *room, GError **error)
{
    const char *given = session->backup.options->scratch;
    g_autoptr(FlLibvirtCall) call = fl_libvirt_call_new(ask_room, given, NULL);

    if (!fl_libvirt_ask(session, call))
        return !call->silent && call->code == VIR_ERR_NO_STORAGE_POOL
                   ? fl_libvirt_fail(error, call,
                                     "without ssh it must be the folder of an active storage pool "
                                     "(virsh pool-list; the default is that of \"" USUAL_POOL
                                     "\"; choose another with -o scratch=DIR)")
                   : fl_libvirt_fail(error, call, "storage pool");
    *room = call->total;
    return take_pool(session, call->string, error);
}

/* Deletes the volumes of the pool whose names begin with CALL->more. */
static bool ask_remove(FlLibvirtCall *call)
{
    virStoragePoolPtr pool = find_pool(call);
    virStorageVolPtr *volumes = NULL;
    int n = -1;
    bool ok;

    if (pool == NULL)
        return false;
    if (virStoragePoolRefresh(pool, 0) == 0)
        n = virStoragePoolListAllVolumes(pool, &volumes, 0);
    ok = n >= 0;
    if (!ok)
        fl_libvirt_call_note_error(call);
    for (int i = 0; i < n; i++) {
        const char *name = virStorageVolGetName(volumes[i]);

        if (name != NULL && g_str_has_prefix(name, call->more) &&
            virStorageVolDelete(volumes[i], 0) < 0) {
            fl_libvirt_call_note_error(call);
            ok = false;
        }
        virStorageVolFree(volumes[i]);
    }
    free(volumes);
    virStoragePoolFree(pool);
    return ok;
}

bool fl_pool_remove(FlLibvirtSession *session, const char *stem, GError **error)
{
    g_autofree char *folder = g_path_get_dirname(stem);
    const char *prefix = strrchr(stem, '/') + 1;
    g_autoptr(FlLibvirtCall) call = fl_libvirt_call_new(ask_remove, folder, prefix);

    if (*prefix == '\0')
        return fl_fail(error, "%s was created over ssh and can be removed only over ssh", folder);
    return fl_libvirt_ask(session, call) ||
           fl_libvirt_fail(error, call, "cannot remove the files %s*", stem);
}

/* CALL->total gets the bytes that the volume at CALL->text occupies. */
static bool ask_used(FlLibvirtCall *call)
{
    virStorageVolPtr volume =
        virStorageVolLookupByPath(virDomainGetConnect(call->domain), call->text);
    virStorageVolInfo info;
    bool ok;

    if (volume == NULL)
        return false;
    ok = virStorageVolGetInfo(volume, &info) == 0;
    if (ok)
        call->total = info.allocation;
    else
        fl_libvirt_call_note_error(call);
    virStorageVolFree(volume);
    return ok;
}

/* Returns the bytes that all scratch files occupy. */
static uint64_t look_at_files(FlLibvirtSession *session)
{
    uint64_t sum = 0;

    for (guint i = 0; i < session->backup.disks->len; i++) {
        const FlSnapshotDisk *disk = g_ptr_array_index(session->backup.disks, i);
        g_autofree char *file = fl_domain_scratch(session->socket, disk->name);
        g_autoptr(FlLibvirtCall) call = fl_libvirt_call_new(ask_used, file, NULL);

        if (fl_libvirt_ask(session, call))
            fl_remote_note_used(session->remote, disk->name, call->total);
        sum += fl_remote_used(session->remote, disk->name);
    }
    return sum;
}

void fl_pool_look(FlLibvirtSession *session)
{
    gint64 now = g_get_monotonic_time();
    g_autoptr(FlLibvirtCall) call = fl_libvirt_call_new(ask_room, session->scratch, NULL);
    bool refreshed = now >= session->next_refresh && fl_libvirt_ask(session, call);
    uint64_t used = look_at_files(session);

    if (refreshed) {
        session->pool_room = call->total + used;
        session->next_refresh = now + REFRESH_INTERVAL;
    }
    if (session->next_refresh != 0)
        fl_remote_note_room(session->remote,
                            session->pool_room > used ? session->pool_room - used : 0);
}
