/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The tree: folders and files by name and by inode number.
 *
 * Inode numbers are a hash of the names of the source and the export, and of the path. They are the
 * same in every mount, as backup tools identify files by them. A tree is built once; the only later
 * change is that an export's folder gets the files of its partitions once the export is complete.
 * Pieces have no nodes: lookups fill in one that the caller provides. Call from the loop only.
 */
#pragma once

#include "mount/export.h"

typedef struct FlNode FlNode;

/* Text that is generated on each request: .fleecefs/status.json. */
typedef GBytes *(*FlMakeText)(void *opaque);

struct FlNode {
    const char *name;
    uint64_t ino;
    FlNode *parent;   /* the root is its own parent */
    FlExport *export; /* of a folder or file of an export; NULL above */
    /* A folder has CHILDREN; a file has FILE or MAKE_TEXT. */
    GPtrArray *children; /* of FlNode, in listing order */
    FlFile *file;
    FlMakeText make_text;
    void *opaque;
    /* Set for the folder of pieces, which lists no children, and for a piece, which has none of the
     * above. */
    FlSplit *split;
    uint64_t piece;
};

typedef struct FlTree FlTree;

FlTree *fl_tree_new(void);
void fl_tree_free(FlTree *tree); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlTree, fl_tree_free)

/*
 * Adds an export's files to the folder at PATH: names from the root down, NULL-terminated, at least
 * one. Fails, naming both, if two names are equal once made safe. The tree takes ownership of
 * EXPORT.
 */
bool fl_tree_add_export(FlTree *tree, const char *const *path, FlExport *export, GError **error);
/* Adds a text at PATH, relative to the root. */
void fl_tree_add_text(FlTree *tree, const char *path, FlMakeText make, void *opaque);

const GPtrArray *fl_tree_exports(const FlTree *tree); /* of FlExport */

FlNode *fl_tree_root(const FlTree *tree);
/* Both return NULL if there is no such node. For a piece they fill in and return *ROOM. */
FlNode *fl_tree_find(const FlTree *tree, uint64_t ino, FlNode *room);
FlNode *fl_node_lookup(const FlTree *tree, const FlNode *folder, const char *name, FlNode *room);
/* The node of piece INDEX of FOLDER; its name is not set. */
FlNode fl_node_piece(const FlNode *folder, uint64_t index);
static inline bool fl_node_is_folder(const FlNode *node)
{
    return node->children != NULL;
}
static inline bool fl_node_is_piece(const FlNode *node)
{
    return node->split != NULL && node->children == NULL;
}
unsigned fl_node_subfolders(const FlNode *folder);
