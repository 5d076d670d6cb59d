/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "changed/report.h"

#include "util/json.h"
#include "util/printable.h"

#include <inttypes.h>
#include <string.h>

static const char *const kind_names[] = {"data", "metadata", "deleted"};

static void put_size(GString *out, uint64_t bytes, bool human)
{
    static const char units[] = "BKMGTPE";
    double size = (double)bytes;
    unsigned i = 0;

    if (!human) {
        g_string_append_printf(out, "%14" PRIu64, bytes);
        return;
    }
    for (; size >= 1024 && units[i + 1] != 0; i++)
        size /= 1024;
    g_string_append_printf(out, size < 10 && i > 0 ? "%6.1f%c" : "%6.0f%c", size, units[i]);
}

/* All changes of FILE are in ranges that also changed later, so it may not have changed before. */
static bool is_uncertain(const FlChangedFile *file)
{
    return file->bytes > 0 && file->again == file->bytes;
}

static void put_text(const FlReport *report, GString *out, uint64_t bytes, const char *kind,
                     const char *path, bool folder)
{
    g_autofree char *shown = fl_printable(path);

    put_size(out, bytes, report->human);
    g_string_append_printf(out, "  %-9s  ", kind);
    if (report->several)
        g_string_append_printf(out, "%s: ", report->part->path);
    g_string_append_printf(out, "%s%s\n", shown, folder ? "/" : "");
}

static void put_name_text(const FlReport *report, GString *out, const FlChangedName *name)
{
    const FlChangedFile *file = name->file;
    g_autofree char *kind = g_strconcat(kind_names[file->how], is_uncertain(file) ? "?" : "", NULL);
    g_autofree char *unnamed = g_strdup_printf("<inode %" PRIu64 ">", file->id);

    put_text(report, out, file->bytes, kind, name->path != NULL ? name->path : unnamed,
             file->folder);
}

static void put_extents(JsonBuilder *json, const FlPart *part, const GArray *extents)
{
    json_builder_set_member_name(json, "extents");
    json_builder_begin_array(json);
    for (guint i = 0; i < extents->len; i++) {
        FlExtent extent = g_array_index(extents, FlExtent, i);

        for (uint64_t at = extent.start, length; at < extent.end; at += length) {
            uint64_t disk;

            length = extent.end - at;
            disk = fl_part_disk(part, at, &length);
            json_builder_begin_object(json);
            fl_json_add_int(json, "start", (gint64)at);
            fl_json_add_int(json, "length", (gint64)length);
            fl_json_add_int(json, "disk", (gint64)disk);
            json_builder_end_object(json);
        }
    }
    json_builder_end_array(json);
}

static void put_line(GString *out, JsonBuilder *json)
{
    g_autoptr(JsonNode) root = json_builder_get_root(json);
    g_autofree char *text = json_to_string(root, FALSE);

    g_string_append_printf(out, "%s\n", text);
}

/* A path that is not UTF-8 is written twice: made printable, and as bytes. */
static void put_path(JsonBuilder *json, const char *path)
{
    fl_json_add_string(json, "path", path);
    if (path != NULL && !g_utf8_validate(path, -1, NULL)) {
        g_autofree char *bytes = g_base64_encode((const guchar *)path, strlen(path));

        fl_json_add_string(json, "path_base64", bytes);
    }
}

static void put_name_json(const FlReport *report, GString *out, const FlChangedName *name)
{
    g_autoptr(JsonBuilder) json = json_builder_new();
    const FlChangedFile *file = name->file;

    json_builder_begin_object(json);
    fl_json_add_string(json, "part", report->part->path);
    put_path(json, name->path);
    fl_json_add_int(json, "inode", (gint64)file->id);
    fl_json_add_string(json, "kind", kind_names[file->how]);
    if (file->folder)
        fl_json_add_bool(json, "folder", true);
    fl_json_add_int(json, "bytes", (gint64)file->bytes);
    if (file->again > 0)
        fl_json_add_int(json, "bytes_changed_later", (gint64)file->again);
    if (file->extents != NULL)
        put_extents(json, report->part, file->extents);
    json_builder_end_object(json);
    put_line(out, json);
}

static void put_name(const FlReport *report, GString *out, const FlChangedName *name)
{
    switch (report->format) {
    case FL_REPORT_TEXT:
        put_name_text(report, out, name);
        break;
    case FL_REPORT_JSON:
        put_name_json(report, out, name);
        break;
    case FL_REPORT_NAMES:
        if (name->path != NULL && name->file->how != FL_CHANGED_DELETED)
            g_string_append_len(out, name->path, (gssize)strlen(name->path) + 1);
        break;
    }
}

typedef struct {
    char *path;
    uint64_t bytes, files;
} Folder;

static void free_folder(void *opaque)
{
    Folder *folder = opaque;

    g_free(folder->path);
    g_free(folder);
}

static void add_to_folder(GHashTable *folders, const char *path, size_t length, uint64_t bytes)
{
    g_autofree char *key = length > 0 ? g_strndup(path, length) : g_strdup(".");
    Folder *folder = g_hash_table_lookup(folders, key);

    if (folder == NULL) {
        folder = g_new0(Folder, 1);
        folder->path = g_steal_pointer(&key);
        g_hash_table_insert(folders, folder->path, folder);
    }
    folder->bytes += bytes;
    folder->files++;
}

static int compare_folders(const void *pa, const void *pb)
{
    const Folder *a = *(Folder *const *)pa, *b = *(Folder *const *)pb;

    return strcmp(a->path, b->path);
}

static int compare_folder_sizes(const void *pa, const void *pb)
{
    const Folder *a = *(Folder *const *)pa, *b = *(Folder *const *)pb;

    return a->bytes != b->bytes ? (a->bytes < b->bytes) - (a->bytes > b->bytes)
                                : strcmp(a->path, b->path);
}

static void put_folder(const FlReport *report, GString *out, const Folder *folder)
{
    if (report->format == FL_REPORT_JSON) {
        g_autoptr(JsonBuilder) json = json_builder_new();

        json_builder_begin_object(json);
        fl_json_add_string(json, "part", report->part->path);
        put_path(json, folder->path);
        fl_json_add_int(json, "files", (gint64)folder->files);
        fl_json_add_int(json, "bytes", (gint64)folder->bytes);
        json_builder_end_object(json);
        put_line(out, json);
        return;
    }
    {
        g_autofree char *files = g_strdup_printf("%" PRIu64, folder->files);

        put_text(report, out, folder->bytes, files, folder->path, true);
    }
}

/* Sums up like du(1): each folder includes everything below it; hard links count once. */
static void put_summary(const FlReport *report, const GPtrArray *names, GString *out)
{
    g_autoptr(GHashTable) folders =
        g_hash_table_new_full(g_str_hash, g_str_equal, NULL, free_folder);
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
    g_autoptr(GPtrArray) sorted = g_ptr_array_new();
    GHashTableIter iter;
    void *folder;

    for (guint i = 0; i < names->len; i++) {
        const FlChangedName *name = names->pdata[i];
        const char *path = name->path;

        if ((report->kinds & 1u << name->file->how) == 0 ||
            !g_hash_table_add(seen, (void *)name->file))
            continue;
        add_to_folder(folders, "", 0, name->file->bytes);
        for (unsigned depth = 1; path != NULL && depth <= report->depth; depth++) {
            path = strchr(path == name->path ? path : path + 1, '/');
            if (path != NULL)
                add_to_folder(folders, name->path, (size_t)(path - name->path), name->file->bytes);
        }
    }
    g_hash_table_iter_init(&iter, folders);
    while (g_hash_table_iter_next(&iter, NULL, &folder))
        g_ptr_array_add(sorted, folder);
    g_ptr_array_sort(sorted, report->by_size ? compare_folder_sizes : compare_folders);
    for (guint i = 0; i < sorted->len; i++)
        put_folder(report, out, sorted->pdata[i]);
}

static int compare_sizes(const void *pa, const void *pb)
{
    const FlChangedName *a = *(FlChangedName *const *)pa, *b = *(FlChangedName *const *)pb;

    if (a->file->bytes != b->file->bytes)
        return (a->file->bytes < b->file->bytes) - (a->file->bytes > b->file->bytes);
    return g_strcmp0(a->path, b->path);
}

void fl_report(const FlReport *report, const GPtrArray *names, GString *out)
{
    g_autoptr(GPtrArray) shown = g_ptr_array_new();

    if (report->summary) {
        put_summary(report, names, out);
        return;
    }
    for (guint i = 0; i < names->len; i++) {
        const FlChangedName *name = names->pdata[i];

        if ((report->kinds & 1u << name->file->how) != 0)
            g_ptr_array_add(shown, (void *)name);
    }
    if (report->by_size)
        g_ptr_array_sort(shown, compare_sizes);
    for (guint i = 0; i < shown->len; i++)
        put_name(report, out, shown->pdata[i]);
}
