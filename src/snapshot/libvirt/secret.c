/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Encrypted scratch files. libvirt would have QEMU format them while the guest is frozen, which
 * takes many seconds; so they are formatted before, and libvirt opens them. It gets their key as a
 * secret that it neither stores nor shows, which exists from PREPARE to EXPORT only: afterwards
 * QEMU has the key. After a crash, it is found by its usage, the path of the job's socket.
 */
#include "snapshot/libvirt/session.h"
#include "snapshot/scratch-key.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

/* CALL->text is the secret's XML, CALL->more its value. */
static bool ask_define(FlLibvirtCall *call)
{
    virSecretPtr secret = virSecretDefineXML(virDomainGetConnect(call->domain), call->text, 0);
    bool ok = secret != NULL && virSecretSetValue(secret, (const unsigned char *)call->more,
                                                  strlen(call->more), 0) == 0;

    if (secret == NULL)
        return false;
    if (!ok) {
        fl_libvirt_call_note_error(call);
        virSecretUndefine(secret);
    }
    virSecretFree(secret);
    return ok;
}

static bool define(FlLibvirtSession *session, const char *key, GError **error)
{
    g_autofree char *uuid = g_uuid_string_random();
    g_autofree char *xml =
        g_markup_printf_escaped("<secret ephemeral='yes' private='yes'><uuid>%s</uuid>"
                                "<description>scratch files of a fleecefs snapshot</description>"
                                "<usage type='volume'><volume>%s</volume></usage></secret>",
                                uuid, session->socket);
    g_autoptr(FlLibvirtCall) call = fl_libvirt_call_new(ask_define, xml, key);

    if (!fl_libvirt_ask(session, call))
        return fl_libvirt_fail(error, call,
                               "cannot give libvirt the key for -o scratch_encrypt (if libvirt's "
                               "daemons are modular, virtsecretd must run)");
    session->secret = g_steal_pointer(&uuid);
    return true;
}

/* Creates the scratch file of DISK in FOLDER, which belongs to the VM's process. */
static bool make_file(const FlLibvirtSession *session, int folder, const FlSnapshotDisk *disk,
                      const char *key, GError **error)
{
    const FlDomain *domain = session->description;
    g_autofree char *path = fl_domain_scratch(session->socket, disk->name);
    int fd = openat(folder, strrchr(path, '/') + 1,
                    O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    bool ok;

    if (fd < 0)
        return fl_fail(error, "%s: %s", path, g_strerror(errno));
    ok = fl_scratch_key_format(fd, disk->size, key, error);
    if (ok && geteuid() == 0 && domain->user >= 0 &&
        fchown(fd, (uid_t)domain->user, (gid_t)domain->group) < 0)
        ok = fl_fail(error, "%s: %s", path, g_strerror(errno));
    close(fd);
    return ok;
}

static bool make_files(const FlLibvirtSession *session, const char *key, GError **error)
{
    const GPtrArray *disks = session->backup.disks;
    g_autofree char *directory = g_path_get_dirname(session->socket);
    int folder = open(directory, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    bool ok = folder >= 0 || fl_fail(error, "%s: %s", directory, g_strerror(errno));

    for (guint i = 0; ok && i < disks->len; i++) {
        const FlSnapshotDisk *disk = disks->pdata[i];

        if (disk->image != NULL)
            continue;
        ok = make_file(session, folder, disk, key, error);
        if (!ok)
            g_prefix_error(error, "disk %s: scratch image for -o scratch_encrypt: ", disk->name);
    }
    if (folder >= 0)
        close(folder);
    return ok;
}

bool fl_libvirt_prepare(FlSnapshot *backup, GError **error)
{
    FlLibvirtSession *session = (FlLibvirtSession *)backup;
    char *key;
    bool ok;

    if (!backup->options->scratch_encrypt || session->socket == NULL)
        return true;
    key = fl_scratch_key_new(error);
    ok = key != NULL && make_files(session, key, error) && define(session, key, error);
    fl_scratch_key_free(key);
    return ok;
}

/* CALL->text is the usage. */
static bool ask_remove(FlLibvirtCall *call)
{
    virSecretPtr secret = virSecretLookupByUsage(virDomainGetConnect(call->domain),
                                                 VIR_SECRET_USAGE_TYPE_VOLUME, call->text);
    bool ok = secret != NULL && virSecretUndefine(secret) == 0;

    call->value = secret != NULL;
    if (!ok)
        fl_libvirt_call_note_error(call);
    if (secret != NULL)
        virSecretFree(secret);
    return ok;
}

bool fl_libvirt_remove_secret(FlLibvirtSession *session, const char *socket, GError **error)
{
    g_autoptr(FlLibvirtCall) call = NULL;

    if (!fl_libvirt_is_our_socket(socket))
        return true;
    call = fl_libvirt_call_new(ask_remove, socket, NULL);
    /* A libvirt without secrets, or that does not let us list them, did not let us define any. */
    return fl_libvirt_ask(session, call) || session->gone || (!call->silent && call->value == 0) ||
           fl_libvirt_fail(error, call, "secret of the scratch files");
}
