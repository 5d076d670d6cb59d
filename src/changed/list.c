/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "changed/list.h"

#include <string.h>

/* A deeper path is a loop. */
#define DEPTH_MAX 1024

typedef struct {
    uint64_t parent;
    char *name;
} Entry;

typedef struct {
    Entry entry;
    FlChangedFile *file;
} Link;

struct FlChangedList {
    const FlPart *part;
    uint64_t root;
    bool extents;
    GHashTable *files;   /* of FlChangedFile, by its id */
    GHashTable *folders; /* of Entry, by id */
    GArray *links;       /* of Link */
    GPtrArray *names;    /* of FlChangedName */
    int64_t newest;      /* newest time of change not after the snapshot */
    unsigned faults;
};

static void free_file(void *opaque)
{
    FlChangedFile *file = opaque;

    if (file->extents != NULL)
        g_array_unref(file->extents);
    g_free(file);
}

static void free_entry(void *opaque)
{
    Entry *entry = opaque;

    g_free(entry->name);
    g_free(entry);
}

static void clear_link(void *opaque)
{
    g_free(((Link *)opaque)->entry.name);
}

static void free_name(void *opaque)
{
    FlChangedName *name = opaque;

    g_free(name->path);
    g_free(name);
}

FlChangedList *fl_changed_list_new(const FlPart *part, uint64_t root, bool extents)
{
    FlChangedList *list = g_new0(FlChangedList, 1);

    list->part = part;
    list->root = root;
    list->extents = extents;
    list->files = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, free_file);
    list->folders = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, free_entry);
    list->links = g_array_new(FALSE, FALSE, sizeof(Link));
    g_array_set_clear_func(list->links, clear_link);
    list->names = g_ptr_array_new_with_free_func(free_name);
    list->newest = INT64_MIN;
    return list;
}

void fl_changed_list_free(FlChangedList *list)
{
    if (list == NULL)
        return;
    g_ptr_array_unref(list->names);
    g_array_unref(list->links);
    g_hash_table_unref(list->folders);
    g_hash_table_unref(list->files);
    g_free(list);
}

void fl_changed_list_observe(FlChangedList *list, int64_t time)
{
    if (time <= list->part->snapshot)
        list->newest = MAX(list->newest, time);
}

void fl_changed_list_measure(FlChangedList *list, FlChangedFile *file, uint64_t length,
                             uint64_t offset)
{
    uint64_t end = length > UINT64_MAX - offset ? UINT64_MAX : offset + length;
    FlExtent extent;

    for (; fl_part_next(list->part, offset, end, &extent); offset = extent.end) {
        file->bytes += extent.end - extent.start;
        file->again += (extent.type & FL_AGAIN) != 0 ? extent.end - extent.start : 0;
        if (!list->extents)
            continue;
        if (file->extents == NULL)
            file->extents = g_array_new(FALSE, FALSE, sizeof(FlExtent));
        g_array_append_val(file->extents, extent);
    }
}

void fl_changed_list_add(FlChangedList *list, FlChangedFile *file)
{
    FlChangedFile *copy = g_memdup2(file, sizeof *file);

    file->extents = NULL;
    g_hash_table_replace(list->files, &copy->id, copy);
}

void fl_changed_list_name(FlChangedList *list, uint64_t parent, uint64_t id, const char *name,
                          bool folder, bool deleted)
{
    FlChangedFile *file = g_hash_table_lookup(list->files, &id);

    if (id == list->root)
        return;
    if (folder && !deleted) {
        Entry *entry = g_new(Entry, 1);

        *entry = (Entry){.parent = parent, .name = g_strdup(name)};
        g_hash_table_replace(list->folders, g_memdup2(&id, sizeof id), entry);
    }
    /* The inode of a removed entry may have been reused for another file. */
    if (file != NULL && deleted == (file->how == FL_CHANGED_DELETED)) {
        Link link = {.entry = {.parent = parent, .name = g_strdup(name)}, .file = file};

        g_array_append_val(list->links, link);
    }
}

void fl_changed_list_fault(FlChangedList *list)
{
    list->faults++;
}

unsigned fl_changed_list_faults(const FlChangedList *list)
{
    return list->faults;
}

/* Returns the path of ENTRY; NULL if it does not lead to the root. */
static char *find_path(const FlChangedList *list, const Entry *entry)
{
    const char *parts[DEPTH_MAX];
    size_t n = 0;
    GString *path;

    parts[n++] = entry->name;
    while (entry->parent != list->root) {
        entry = g_hash_table_lookup(list->folders, &entry->parent);
        if (entry == NULL || n == DEPTH_MAX)
            return NULL;
        parts[n++] = entry->name;
    }
    path = g_string_new(parts[--n]);
    while (n > 0)
        g_string_append_printf(path, "/%s", parts[--n]);
    return g_string_free(path, FALSE);
}

/* By the guest's clock, which lags behind the host's by at most the age of its newest time. */
static int64_t find_oldest(const FlChangedList *list)
{
    const FlPart *part = list->part;
    int64_t behind =
        list->newest == INT64_MIN || part->guest_clock ? 0 : part->snapshot - list->newest;

    return part->since < 0 ? INT64_MIN : part->since - behind;
}

static int compare_names(const void *pa, const void *pb)
{
    const FlChangedName *a = *(FlChangedName *const *)pa, *b = *(FlChangedName *const *)pb;
    int order = g_strcmp0(a->path, b->path);

    return order != 0 ? order : (a->file->id > b->file->id) - (a->file->id < b->file->id);
}

static void add_name(FlChangedList *list, char *path, const FlChangedFile *file)
{
    FlChangedName *name = g_new(FlChangedName, 1);

    *name = (FlChangedName){.path = path, .file = file};
    g_ptr_array_add(list->names, name);
}

const GPtrArray *fl_changed_list_finish(FlChangedList *list)
{
    int64_t oldest = find_oldest(list);
    g_autoptr(GHashTable) named = g_hash_table_new(NULL, NULL);
    GHashTableIter iter;
    FlChangedFile *file;

    for (guint i = 0; i < list->links->len; i++) {
        const Link *link = &g_array_index(list->links, Link, i);
        char *path;

        if (link->file->by_time && link->file->time < oldest)
            continue;
        path = find_path(list, &link->entry);
        if (path == NULL)
            continue;
        add_name(list, path, link->file);
        g_hash_table_add(named, link->file);
    }
    g_hash_table_iter_init(&iter, list->files);
    while (g_hash_table_iter_next(&iter, NULL, (void **)&file)) {
        if ((file->by_time && file->time < oldest) || g_hash_table_contains(named, file))
            continue;
        add_name(list, file->id == list->root ? g_strdup(".") : NULL, file);
    }
    g_ptr_array_sort(list->names, compare_names);
    return list->names;
}
