/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mount/tree.h"

#include "util/name.h"

/* The root's inode number, fixed by FUSE. */
#define ROOT_INO 1

/* The folder of an export, for files added later. */
typedef struct {
    FlTree *tree;
    FlNode *top;
} Place;

struct FlTree {
    FlNode *root;
    GHashTable *by_ino;  /* uint64_t -> FlNode, owned */
    GHashTable *by_name; /* FlNode by parent and name */
    /* Upper halves of inode numbers: those of all nodes (TAKEN), and those reserved for pieces,
     * with their folders (SPLITS). */
    GHashTable *taken, *splits;
    GPtrArray *exports;
    GPtrArray *places; /* of Place, one per export */
};

static guint hash_name(gconstpointer key)
{
    const FlNode *node = key;

    return g_str_hash(node->name) ^ g_int64_hash(&node->parent->ino);
}

static gboolean equal_name(gconstpointer a, gconstpointer b)
{
    const FlNode *x = a, *y = b;

    return x->parent == y->parent && g_str_equal(x->name, y->name);
}

static void node_free(gpointer data)
{
    FlNode *node = data;

    g_clear_pointer(&node->children, g_ptr_array_unref);
    g_free((char *)node->name);
    g_free(node);
}

FlTree *fl_tree_new(void)
{
    FlTree *tree = g_new0(FlTree, 1);

    tree->by_ino = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, node_free);
    tree->by_name = g_hash_table_new(hash_name, equal_name);
    tree->taken = g_hash_table_new(NULL, NULL);
    tree->splits = g_hash_table_new(NULL, NULL);
    tree->exports = g_ptr_array_new_with_free_func((GDestroyNotify)fl_export_free);
    tree->places = g_ptr_array_new_with_free_func(g_free);
    tree->root = g_new0(FlNode, 1);
    tree->root->name = g_strdup("");
    tree->root->ino = ROOT_INO;
    tree->root->parent = tree->root;
    tree->root->children = g_ptr_array_new();
    g_hash_table_insert(tree->by_ino, &tree->root->ino, tree->root);
    return tree;
}

void fl_tree_free(FlTree *tree)
{
    if (tree == NULL)
        return;
    g_hash_table_unref(tree->by_name);
    g_hash_table_unref(tree->taken);
    g_hash_table_unref(tree->splits);
    g_hash_table_unref(tree->by_ino);
    g_ptr_array_unref(tree->exports);
    g_ptr_array_unref(tree->places);
    g_free(tree);
}

const GPtrArray *fl_tree_exports(const FlTree *tree)
{
    return tree->exports;
}

FlNode *fl_tree_root(const FlTree *tree)
{
    return tree->root;
}

static gpointer upper_half(uint64_t ino)
{
    return GUINT_TO_POINTER((guint)(ino >> 32));
}

/* The first inode number of the pieces of FOLDER. */
static uint64_t first_piece(const FlNode *folder)
{
    return (uint64_t)GPOINTER_TO_UINT(folder->opaque) << 32;
}

FlNode fl_node_piece(const FlNode *folder, uint64_t index)
{
    return (FlNode){
        .ino = first_piece(folder) + index,
        .parent = (FlNode *)folder,
        .export = folder->export,
        .split = folder->split,
        .piece = index,
    };
}

FlNode *fl_tree_find(const FlTree *tree, uint64_t ino, FlNode *room)
{
    FlNode *node = g_hash_table_lookup(tree->by_ino, &ino);

    if (node != NULL)
        return node;
    node = g_hash_table_lookup(tree->splits, upper_half(ino));
    if (node == NULL || ino - first_piece(node) >= fl_split_count(node->split))
        return NULL;
    *room = fl_node_piece(node, ino - first_piece(node));
    return room;
}

static FlNode *find_child(const FlTree *tree, const FlNode *folder, const char *name)
{
    FlNode key = {.name = name, .parent = (FlNode *)folder};

    return g_hash_table_lookup(tree->by_name, &key);
}

FlNode *fl_node_lookup(const FlTree *tree, const FlNode *folder, const char *name, FlNode *room)
{
    uint64_t index;

    if (folder->split == NULL)
        return find_child(tree, folder, name);
    if (!fl_node_is_folder(folder) || !fl_split_parse(folder->split, name, &index))
        return NULL;
    *room = fl_node_piece(folder, index);
    return room;
}

unsigned fl_node_subfolders(const FlNode *folder)
{
    unsigned n = 0;

    for (guint i = 0; i < folder->children->len; i++)
        n += fl_node_is_folder(folder->children->pdata[i]);
    return n;
}

/* Adds a child to PARENT; its inode number is the hash of SOURCE and PATH. */
static FlNode *add_node(FlTree *tree, FlNode *parent, const char *name, const char *source,
                        const char *path)
{
    FlNode *node = g_new0(FlNode, 1);

    node->name = g_strdup(name);
    node->parent = parent;
    node->ino = fl_name_hash(source, path, NULL);
    /* Skip numbers that FUSE reserves or that are taken, which almost never happens. */
    while (node->ino <= ROOT_INO || g_hash_table_contains(tree->by_ino, &node->ino) ||
           g_hash_table_contains(tree->splits, upper_half(node->ino)))
        node->ino += UINT64_C(0x100000001);
    g_hash_table_add(tree->taken, upper_half(node->ino));
    g_ptr_array_add(parent->children, node);
    g_hash_table_insert(tree->by_ino, &node->ino, node);
    g_hash_table_add(tree->by_name, node);
    return node;
}

static FlNode *add_folder(FlTree *tree, FlNode *parent, const char *name, const char *source,
                          const char *path)
{
    FlNode *node = find_child(tree, parent, name);

    if (node == NULL) {
        node = add_node(tree, parent, name, source, path);
        node->children = g_ptr_array_new_with_free_func(NULL);
    }
    return node;
}

/* Adds a file at PATH below TOP, and its folder; NULL if the name is taken. */
static FlNode *add_path(FlTree *tree, FlNode *top, const char *path, const char *source,
                        FlExport *export)
{
    g_auto(GStrv) parts = g_strsplit(path, "/", 2);
    FlNode *folder = top;
    const char *name = path;
    FlNode *node;

    if (parts[1] != NULL) {
        folder = add_folder(tree, top, parts[0], source, parts[0]);
        folder->export = export;
        name = parts[1];
    }
    if (find_child(tree, folder, name) != NULL)
        return NULL;
    node = add_node(tree, folder, name, source, path);
    node->export = export;
    return node;
}

void fl_tree_add_text(FlTree *tree, const char *path, FlMakeText make, void *opaque)
{
    FlNode *node = add_path(tree, tree->root, path, ".fleecefs", NULL);

    node->make_text = make;
    node->opaque = opaque;
}

/* The source name that the inode numbers of EXPORT are derived from. */
static char *source_of(const FlExport *export)
{
    const FlOrigin *origin = fl_export_origin(export);

    return g_strconcat(origin->source, "\n", origin->folder, NULL);
}

static void add_late(FlExport *export, FlFile *file, void *opaque)
{
    const Place *place = opaque;
    g_autofree char *source = source_of(export);
    FlNode *node = add_path(place->tree, place->top, fl_file_path(file), source, export);

    if (node != NULL)
        node->file = file;
}

/* Adds the folder of pieces and reserves an unused upper half for their inode numbers. */
static void add_split(FlTree *tree, FlNode *top, const char *source, FlExport *export)
{
    FlNode *folder = add_folder(tree, top, "split", source, "split");
    uint64_t first = fl_name_hash(source, "split/", NULL);

    while (upper_half(first) == NULL || g_hash_table_contains(tree->taken, upper_half(first)))
        first += UINT64_C(1) << 32;
    folder->export = export;
    folder->split = fl_export_split(export);
    folder->opaque = upper_half(first);
    g_hash_table_add(tree->taken, upper_half(first));
    g_hash_table_insert(tree->splits, upper_half(first), folder);
}

/* Adds the parent folders of an export's folder. Returns the last one, or the first that belongs to
 * an export. */
static FlNode *add_parents(FlTree *tree, const char *const *path, const char *source)
{
    FlNode *parent = tree->root;

    for (; path[1] != NULL && parent->export == NULL; path++) {
        g_autofree char *name = fl_name_encode(path[0]);
        parent = add_folder(tree, parent, name, source, name);
    }
    return parent;
}

/* An export in FOLDER or below, which is not empty. */
static const FlExport *export_in(const FlNode *folder)
{
    while (folder->export == NULL)
        folder = folder->children->pdata[0];
    return folder->export;
}

/* The names of the folders of PATH, as in the tree. */
static char *shown_path(const char *const *path)
{
    g_autoptr(GString) shown = g_string_new(NULL);

    for (; *path != NULL; path++) {
        g_autofree char *name = fl_name_encode(*path);
        g_string_append_printf(shown, "%s%s", shown->len > 0 ? "/" : "", name);
    }
    return g_string_free(g_steal_pointer(&shown), FALSE);
}

/* Reports that EXPORT and the export in FOLDER, or below it, would both be in the folder SHOWN. */
static bool fail_taken(const FlNode *folder, const char *shown, const FlExport *export,
                       GError **error)
{
    const FlExport *other = export_in(folder);
    const char *there = fl_disk_label(fl_export_disk(other));
    const char *here = fl_disk_label(fl_export_disk(export));
    const char *name = fl_export_origin(export)->folder;

    if (!g_str_equal(there, here))
        return fl_fail(error,
                       "%s and %s would both be in the folder %s: give each source a name of its "
                       "own (NAME=SOURCE)",
                       there, here, shown);
    if (!g_str_equal(fl_export_origin(other)->folder, name))
        return fl_fail(error,
                       "\"%s\" and \"%s\" of %s would both be in the folder %s: mount one of them "
                       "alone",
                       fl_export_origin(other)->folder, name, here, shown);
    return fl_fail(error,
                   "two sources %s would both be in the folder %s: give each a name of its own "
                   "(NAME=SOURCE)",
                   here, shown);
}

bool fl_tree_add_export(FlTree *tree, const char *const *path, FlExport *export, GError **error)
{
    const FlOrigin *origin = fl_export_origin(export);
    const GPtrArray *files = fl_export_files(export);
    g_autofree char *name = fl_name_encode(path[g_strv_length((char **)path) - 1]);
    g_autofree char *source = source_of(export), *shown = shown_path(path);
    FlNode *parent = add_parents(tree, path, origin->source);
    FlNode *top = parent->export == NULL ? find_child(tree, parent, name) : NULL;
    Place *place;

    g_ptr_array_add(tree->exports, export);
    if (parent->export != NULL)
        return fail_taken(parent, parent->name, export, error);
    if (top != NULL)
        return fail_taken(top, shown, export, error);
    top = add_folder(tree, parent, name, source, "");
    top->export = export;

    for (guint i = 0; i < files->len; i++) {
        FlFile *file = files->pdata[i];
        FlNode *node = add_path(tree, top, fl_file_path(file), source, export);

        if (node == NULL)
            return fl_fail(error,
                           "export \"%s\" has two meta contexts that would both be the file "
                           "%s: rename one of the bitmaps",
                           origin->folder, fl_file_path(file));
        node->file = file;
    }
    add_split(tree, top, source, export);
    place = g_new(Place, 1);
    *place = (Place){tree, top};
    g_ptr_array_add(tree->places, place);
    fl_export_watch(export, add_late, place);
    return true;
}
