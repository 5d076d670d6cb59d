/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "snapshot/libvirt/xml.h"

#include "snapshot/libvirt/markup.h"
#include "snapshot/point.h"

#include <string.h>

/*
 * fleecefs stores its data in a checkpoint's description: "fleecefs pending
 * vda=SIZE,DISK_ID,KEY,KEY vdb=...", then "fleecefs committed ...": what the disks were. Earlier
 * versions stored only the sizes.
 */
#define PENDING     "fleecefs pending"
#define COMMITTED   "fleecefs committed"
#define FINGERPRINT ":witness" /* suffix of the target in a word that is a fingerprint */
#define SOCKET      "nbd"      /* ends the path of a server's socket */

static void set_string(char **string, const char *value)
{
    if (*string == NULL)
        *string = g_strdup(value);
}

/* Domains */

static void free_domain_disk(gpointer data)
{
    FlDomainDisk *disk = data;

    g_free(disk->target);
    g_free(disk->device);
    g_free(disk->format);
    g_free(disk->path);
    g_free(disk->pool);
    g_free(disk->volume);
    g_free(disk->remote);
    g_ptr_array_unref(disk->keys);
    g_free(disk);
}

static void start_disk_part(FlDomainDisk *disk, const char *part, const char **names,
                            const char **values)
{
    if (g_str_equal(part, "target")) {
        set_string(&disk->target, fl_markup_attribute(names, values, "dev"));
        disk->scsi = g_strcmp0(fl_markup_attribute(names, values, "bus"), "scsi") == 0;
    } else if (g_str_equal(part, "driver")) {
        set_string(&disk->format, fl_markup_attribute(names, values, "type"));
        disk->iothread = disk->iothread || fl_markup_attribute(names, values, "iothread") != NULL;
        disk->reports =
            g_strcmp0(fl_markup_attribute(names, values, "error_policy"), "report") == 0 ||
            g_strcmp0(fl_markup_attribute(names, values, "error_policy"), "ignore") == 0;
    } else if (g_str_equal(part, "source")) {
        disk->empty = false;
        set_string(&disk->path, fl_markup_attribute(names, values, "file"));
        set_string(&disk->path, fl_markup_attribute(names, values, "dev"));
        set_string(&disk->pool, fl_markup_attribute(names, values, "pool"));
        set_string(&disk->volume, fl_markup_attribute(names, values, "volume"));
        if (fl_markup_attribute(names, values, "protocol") != NULL && disk->remote == NULL) {
            const char *name = fl_markup_attribute(names, values, "name");
            disk->remote = g_strdup_printf("%s:%s", fl_markup_attribute(names, values, "protocol"),
                                           name != NULL ? name : "");
        }
    } else if (g_str_equal(part, "source/slices/slice")) {
        disk->slice = true;
    } else if (g_str_equal(part, "shareable")) {
        disk->shareable = true;
    } else if (g_str_equal(part, "transient")) {
        disk->transient = true;
    } else if (g_str_has_prefix(part, "driver/iothreads")) {
        disk->iothread = true;
    } else if (g_str_equal(part, "readonly")) {
        disk->read_only = true;
    }
}

static void start_domain_part(void *object, const char *path, const char **names,
                              const char **values)
{
    static const char disk_path[] = "domain/devices/disk";
    FlDomain *domain = object;
    const char *device = fl_markup_attribute(names, values, "device");

    if (g_str_equal(path, disk_path)) {
        FlDomainDisk *disk = g_new0(FlDomainDisk, 1);
        disk->device = g_strdup(device != NULL ? device : "disk");
        disk->empty = true;
        disk->keys = g_ptr_array_new_with_free_func(g_free);
        disk->vhost_user = g_strcmp0(fl_markup_attribute(names, values, "type"), "vhostuser") == 0;
        g_ptr_array_add(domain->disks, disk);
    } else if (g_str_has_prefix(path, disk_path) && path[strlen(disk_path)] == '/') {
        start_disk_part(g_ptr_array_index(domain->disks, domain->disks->len - 1),
                        path + strlen(disk_path) + 1, names, values);
    } else if (g_str_equal(path, "domain/devices/controller/driver")) {
        domain->scsi_iothread =
            domain->scsi_iothread || fl_markup_attribute(names, values, "iothread") != NULL;
    } else if (g_str_equal(path, "domain/devices/channel/target")) {
        domain->agent =
            domain->agent ||
            (g_strcmp0(fl_markup_attribute(names, values, "name"), "org.qemu.guest_agent.0") == 0 &&
             g_strcmp0(fl_markup_attribute(names, values, "state"), "connected") == 0);
    }
}

/* "+64055:+107", the label of the DAC security model. */
static void end_domain_part(void *object, const char *path, const char *text)
{
    FlDomain *domain = object;
    g_auto(GStrv) ids = NULL;

    if (!g_str_equal(path, "domain/seclabel/label"))
        return;
    ids = g_strsplit(text, ":", 2);
    if (g_strv_length(ids) != 2 || ids[0][0] != '+' || ids[1][0] != '+' ||
        !g_ascii_string_to_signed(ids[0] + 1, 10, 0, G_MAXUINT32 - 1, &domain->user, NULL) ||
        !g_ascii_string_to_signed(ids[1] + 1, 10, 0, G_MAXUINT32 - 1, &domain->group, NULL))
        return;
}

static FlDomain *new_domain(void)
{
    FlDomain *domain = g_new0(FlDomain, 1);

    domain->disks = g_ptr_array_new_with_free_func(free_domain_disk);
    domain->user = domain->group = -1;
    return domain;
}

FlDomain *fl_domain_parse(const char *xml, GError **error)
{
    g_autoptr(FlDomain) domain = new_domain();
    FlMarkupReader reader = {.object = domain, .start = start_domain_part, .end = end_domain_part};

    if (!fl_markup_read(&reader, xml, error))
        return NULL;
    for (guint i = domain->disks->len; i-- > 0;) {
        FlDomainDisk *disk = g_ptr_array_index(domain->disks, i);
        disk->iothread = disk->iothread || (disk->scsi && domain->scsi_iothread);
        if (disk->target == NULL)
            g_ptr_array_remove_index(domain->disks, i);
    }
    return g_steal_pointer(&domain);
}

void fl_domain_free(FlDomain *domain)
{
    if (domain == NULL)
        return;
    g_ptr_array_unref(domain->disks);
    g_free(domain);
}

/* Checkpoints */

static void free_checkpoint_disk(gpointer data)
{
    FlCheckpointDisk *disk = data;

    g_free(disk->disk_id);
    g_free(disk->fingerprint);
    g_ptr_array_unref(disk->keys);
    g_free(disk);
}

/* Returns the disk TARGET of CHECKPOINT, adding it if it is new. */
static FlCheckpointDisk *need_disk(FlCheckpoint *checkpoint, const char *target)
{
    FlCheckpointDisk *disk = g_hash_table_lookup(checkpoint->disks, target);

    if (disk == NULL) {
        disk = g_new0(FlCheckpointDisk, 1);
        disk->keys = g_ptr_array_new_with_free_func(g_free);
        g_hash_table_insert(checkpoint->disks, g_strdup(target), disk);
    }
    return disk;
}

/* Parser state: a checkpoint, and the domain definition embedded in it. */
typedef struct {
    FlCheckpoint *checkpoint;
    FlDomain *domain;
} CheckpointParts;

#define CHECKPOINT_PATH "domaincheckpoint/"

static void start_checkpoint_part(void *object, const char *path, const char **names,
                                  const char **values)
{
    CheckpointParts *parts = object;
    const char *target = fl_markup_attribute(names, values, "name");

    if (g_str_equal(path, CHECKPOINT_PATH "disks/disk") && target != NULL &&
        g_strcmp0(fl_markup_attribute(names, values, "checkpoint"), "bitmap") == 0)
        need_disk(parts->checkpoint, target);
    else if (g_str_has_prefix(path, CHECKPOINT_PATH "domain/"))
        start_domain_part(parts->domain, path + strlen(CHECKPOINT_PATH), names, values);
}

static void read_description(FlCheckpoint *checkpoint, const char *text)
{
    g_auto(GStrv) words = g_strsplit(text, " ", -1);

    checkpoint->pending = g_str_has_prefix(text, PENDING);
    checkpoint->ours = checkpoint->pending || g_str_has_prefix(text, COMMITTED);
    for (char **word = words; checkpoint->ours && *word != NULL; word++) {
        char *equals = strchr(*word, '=');
        g_auto(GStrv) parts = g_strsplit(equals != NULL ? equals + 1 : "", ",", -1);
        FlCheckpointDisk *disk;
        guint64 size;

        if (equals != NULL && g_str_has_suffix((*equals = '\0', *word), FINGERPRINT)) {
            (*word)[strlen(*word) - strlen(FINGERPRINT)] = '\0';
            set_string(&need_disk(checkpoint, *word)->fingerprint, equals + 1);
            continue;
        }
        if (parts[0] == NULL ||
            !g_ascii_string_to_unsigned(parts[0], 10, 0, INT64_MAX, &size, NULL))
            continue;
        disk = need_disk(checkpoint, *word);
        disk->size = size;
        set_string(&disk->disk_id, parts[1]);
        for (guint i = 2; disk->disk_id != NULL && parts[i] != NULL; i++)
            g_ptr_array_add(disk->keys, g_strdup(parts[i]));
    }
}

static void end_checkpoint_part(void *object, const char *path, const char *text)
{
    FlCheckpoint *checkpoint = ((CheckpointParts *)object)->checkpoint;

    if (g_str_equal(path, CHECKPOINT_PATH "name"))
        set_string(&checkpoint->name, text);
    else if (g_str_equal(path, CHECKPOINT_PATH "parent/name"))
        set_string(&checkpoint->parent, text);
    else if (g_str_equal(path, CHECKPOINT_PATH "description"))
        read_description(checkpoint, text);
}

/* Adds the files in DOMAIN as keys of disks that have no stored keys. */
static void add_paths(FlCheckpoint *checkpoint, const FlDomain *domain)
{
    for (guint i = 0; i < domain->disks->len; i++) {
        const FlDomainDisk *vm = g_ptr_array_index(domain->disks, i);
        FlCheckpointDisk *disk =
            vm->target != NULL ? g_hash_table_lookup(checkpoint->disks, vm->target) : NULL;

        if (disk != NULL && disk->keys->len == 0 && vm->path != NULL)
            g_ptr_array_add(disk->keys, g_strconcat("path:", vm->path, NULL));
    }
}

FlCheckpoint *fl_checkpoint_parse(const char *xml, GError **error)
{
    g_autoptr(FlCheckpoint) checkpoint = g_new0(FlCheckpoint, 1);
    g_autoptr(FlDomain) domain = new_domain();
    CheckpointParts parts = {.checkpoint = checkpoint, .domain = domain};
    FlMarkupReader reader = {
        .object = &parts, .start = start_checkpoint_part, .end = end_checkpoint_part};
    g_autoptr(FlPoint) point = NULL;

    checkpoint->disks =
        g_hash_table_new_full(g_str_hash, g_str_equal, g_free, free_checkpoint_disk);
    if (!fl_markup_read(&reader, xml, error))
        return NULL;
    if (checkpoint->name == NULL) {
        fl_fail(error, "libvirt sent a checkpoint without a name");
        return NULL;
    }
    point = fl_point_parse(checkpoint->name);
    checkpoint->ours = checkpoint->ours && point != NULL && point->kind == FL_POINT_BASE;
    checkpoint->pending = checkpoint->pending && checkpoint->ours;
    add_paths(checkpoint, domain);
    return g_steal_pointer(&checkpoint);
}

void fl_checkpoint_free(FlCheckpoint *checkpoint)
{
    if (checkpoint == NULL)
        return;
    g_free(checkpoint->name);
    g_free(checkpoint->parent);
    g_hash_table_unref(checkpoint->disks);
    g_free(checkpoint);
}

static const FlCheckpoint *parent_of(const FlCheckpoint *checkpoint, const GPtrArray *checkpoints)
{
    for (guint i = 0; checkpoint->parent != NULL && i < checkpoints->len; i++) {
        const FlCheckpoint *other = g_ptr_array_index(checkpoints, i);
        if (g_str_equal(other->name, checkpoint->parent))
            return other;
    }
    return NULL;
}

guint fl_checkpoint_depth(const FlCheckpoint *checkpoint, const GPtrArray *checkpoints)
{
    guint depth = 0;

    while (depth < checkpoints->len && (checkpoint = parent_of(checkpoint, checkpoints)) != NULL)
        depth++;
    return depth;
}

bool fl_checkpoint_descends(const FlCheckpoint *checkpoint, const FlCheckpoint *ancestor,
                            const GPtrArray *checkpoints)
{
    for (guint i = 0; i < checkpoints->len && checkpoint != NULL; i++) {
        checkpoint = parent_of(checkpoint, checkpoints);
        if (checkpoint == ancestor)
            return true;
    }
    return false;
}

/* Builds the words "TARGET=SIZE,DISK,KEY..." and "TARGET:witness=..." */
static char *describe(const char *state, const FlDomainPart *parts, gsize n)
{
    GString *text = g_string_new(state);

    for (gsize i = 0; i < n; i++) {
        const FlDomainPart *part = &parts[i];

        if (part->point)
            g_string_append_printf(text, " %s=%" G_GUINT64_FORMAT ",%s%s", part->target, part->size,
                                   part->disk_id, part->keys);
        if (part->point && part->fingerprint != NULL)
            g_string_append_printf(text, " %s" FINGERPRINT "=%s", part->target, part->fingerprint);
    }
    return g_string_free(text, FALSE);
}

char *fl_checkpoint_xml(const FlDomainPart *parts, gsize n, const char *name)
{
    g_autofree char *description = describe(PENDING, parts, n);
    g_autoptr(GString) disks = g_string_new(NULL);
    g_autofree char *head = NULL;

    for (gsize i = 0; i < n; i++) {
        const FlDomainPart *part = &parts[i];
        g_autofree char *disk = g_markup_printf_escaped(
            "<disk name='%s' checkpoint='%s'/>", part->target, part->point ? "bitmap" : "no");
        g_string_append(disks, disk);
    }
    head =
        g_markup_printf_escaped("<name>%s</name><description>%s</description>", name, description);
    return g_strdup_printf("<domaincheckpoint>%s<disks>%s</disks></domaincheckpoint>", head,
                           disks->str);
}

char *fl_checkpoint_redefine_xml(const char *name, const char *target, const char *domain)
{
    g_autofree char *own = g_markup_printf_escaped(
        "<name>%s</name><creationTime>0</creationTime><disks><disk name='%s' checkpoint='bitmap'/>"
        "</disks>",
        name, target);

    return g_strdup_printf("<domaincheckpoint>%s%s</domaincheckpoint>", own, domain);
}

static void end_description(void *object, const char *path, const char *text)
{
    if (g_str_equal(path, CHECKPOINT_PATH "description"))
        set_string(object, text);
}

char *fl_checkpoint_confirm_xml(const char *xml, const FlDomainPart *parts, gsize n, GError **error)
{
    g_autofree char *found = NULL;
    g_autofree char *confirmed = describe(COMMITTED, parts, n);
    FlMarkupReader reader = {.object = &found, .end = end_description};

    if (!fl_markup_read(&reader, xml, error))
        return NULL;
    if (found == NULL || !g_str_has_prefix(found, PENDING)) {
        fl_fail(error, "libvirt has changed the checkpoint's description");
        return NULL;
    }
    return fl_markup_replace_text(xml, CHECKPOINT_PATH "description", confirmed, error);
}

/* Backups */

static void free_export(gpointer data)
{
    FlDomainExport *export = data;

    g_free(export->target);
    g_free(export->export_name);
    g_free(export->bitmap);
    g_free(export);
}

static void start_backup_part(void *object, const char *path, const char **names,
                              const char **values)
{
    FlDomainBackup *backup = object;

    if (g_str_equal(path, "domainbackup")) {
        set_string(&backup->mode, fl_markup_attribute(names, values, "mode"));
    } else if (g_str_equal(path, "domainbackup/server")) {
        set_string(&backup->socket, fl_markup_attribute(names, values, "socket"));
        backup->tcp = g_strcmp0(fl_markup_attribute(names, values, "transport"), "tcp") == 0;
    } else if (g_str_equal(path, "domainbackup/disks/disk/scratch") ||
               g_str_equal(path, "domainbackup/disks/disk/target")) {
        set_string(&backup->file, fl_markup_attribute(names, values, "file"));
        set_string(&backup->file, fl_markup_attribute(names, values, "dev"));
    } else if (g_str_equal(path, "domainbackup/disks/disk") &&
               fl_markup_attribute(names, values, "name") != NULL &&
               g_strcmp0(fl_markup_attribute(names, values, "backup"), "yes") == 0) {
        FlDomainExport *export = g_new(FlDomainExport, 1);

        export->target = g_strdup(fl_markup_attribute(names, values, "name"));
        export->export_name = g_strdup(fl_markup_attribute(names, values, "exportname"));
        export->bitmap = g_strdup(fl_markup_attribute(names, values, "exportbitmap"));
        g_ptr_array_add(backup->disks, export);
    }
}

/* Derives the socket's path from the first scratch file if that is named like one of ours. */
static void find_socket(FlDomainBackup *backup)
{
    const FlDomainExport *first = backup->disks->len > 0 ? backup->disks->pdata[0] : NULL;
    g_autofree char *stem = NULL;

    if (first == NULL || backup->file == NULL || !g_str_has_suffix(backup->file, first->target))
        return;
    stem = g_strndup(backup->file, strlen(backup->file) - strlen(first->target));
    backup->socket = g_strconcat(stem, SOCKET, NULL);
}

FlDomainBackup *fl_domain_backup_parse(const char *xml, GError **error)
{
    g_autoptr(FlDomainBackup) backup = g_new0(FlDomainBackup, 1);
    FlMarkupReader reader = {.object = backup, .start = start_backup_part};

    backup->disks = g_ptr_array_new_with_free_func(free_export);
    if (!fl_markup_read(&reader, xml, error))
        return NULL;
    set_string(&backup->mode, "push");
    if (backup->tcp && backup->socket == NULL)
        find_socket(backup);
    return g_steal_pointer(&backup);
}

void fl_domain_backup_free(FlDomainBackup *backup)
{
    if (backup == NULL)
        return;
    g_free(backup->mode);
    g_free(backup->socket);
    g_free(backup->file);
    g_ptr_array_unref(backup->disks);
    g_free(backup);
}

char *fl_domain_scratch(const char *socket, const char *target)
{
    g_autofree char *stem = g_strndup(socket, strlen(socket) - strlen(SOCKET));

    return g_strconcat(stem, target, NULL);
}

static char *scratch_xml(const FlDomainPart *part, const FlDomainServer *server)
{
    g_autofree char *file = fl_domain_scratch(server->socket, part->target);

    if (server->secret == NULL)
        return g_markup_printf_escaped("<scratch file='%s'/>", file);
    return g_markup_printf_escaped("<scratch file='%s'><encryption format='luks'><secret "
                                   "type='passphrase' uuid='%s'/></encryption></scratch>",
                                   file, server->secret);
}

static void add_backup_disk(GString *xml, const FlDomainPart *part, const FlDomainServer *server)
{
    g_autofree char *scratch = scratch_xml(part, server);
    g_autofree char *text = NULL;

    if (part->export_name == NULL)
        text = g_markup_printf_escaped("<disk name='%s' backup='no'/>", part->target);
    else if (part->checkpoint == NULL)
        text = g_markup_printf_escaped(
            "<disk name='%s' backup='yes' type='file' backupmode='full' exportname='%s'>",
            part->target, part->export_name);
    else
        text = g_markup_printf_escaped(
            "<disk name='%s' backup='yes' type='file' backupmode='incremental' incremental='%s' "
            "exportname='%s' exportbitmap='%s'>",
            part->target, part->checkpoint, part->export_name, part->bitmap);
    g_string_append(xml, text);
    if (part->export_name != NULL)
        g_string_append_printf(xml, "%s</disk>", scratch);
}

static char *server_xml(const FlDomainServer *server)
{
    if (server->address == NULL)
        return g_markup_printf_escaped("<server transport='unix' socket='%s'/>", server->socket);
    return g_markup_printf_escaped("<server transport='tcp' tls='yes' name='%s' port='%u'/>",
                                   server->address, server->port);
}

char *fl_domain_backup_xml(const FlDomainPart *parts, gsize n, const FlDomainServer *server)
{
    g_autoptr(GString) disks = g_string_new(NULL);
    g_autofree char *element = server_xml(server);

    for (gsize i = 0; i < n; i++)
        add_backup_disk(disks, &parts[i], server);
    return g_strdup_printf("<domainbackup mode='pull'>%s<disks>%s</disks></domainbackup>", element,
                           disks->str);
}
