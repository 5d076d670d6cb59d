/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The tree: folders and files by name and by inode number.
 *
 * Inode numbers are a hash of the source's name, the export's and the path, so that they are the
 * same in every mount; backup tools tell by them what they have seen. A tree is built once, and
 * changes no more than that the folder of an export gets the files of its partitions when it is
 * complete. The pieces of a disk have no nodes: who asks for one gets it written to where he says.
 * Belongs to the loop.
 */
#pragma once

#include "mount/export.h"

typedef struct FlNode FlNode;

/* Text that the daemon writes anew each time it is asked for: .fleecefs/status.json. */
typedef GBytes *(*FlMakeText)(void *opaque);

struct FlNode {
    const char *name;
    uint64_t ino;
    FlNode *parent;   /* the root's is itself */
    FlExport *export; /* of a folder or file of an export; NULL above */
    /* A folder has children, a file one of the other two. */
    GPtrArray *children; /* of FlNode, in the order of listing */
    FlFile *file;
    FlMakeText make_text;
    void *opaque;
    /* Of the folder of pieces, which lists no children, and of a piece, which is none of the above.
     */
    FlSplit *split;
    uint64_t piece;
};

typedef struct FlTree FlTree;

FlTree *fl_tree_new(void);
void fl_tree_free(FlTree *tree); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlTree, fl_tree_free)

/*
 * Puts an export's files in the folder at PATH: names from the root down, ended by NULL, at least
 * one. Fails where two names are the same once they are safe, naming both. The tree takes over
 * EXPORT.
 */
bool fl_tree_add_export(FlTree *tree, const char *const *path, FlExport *export, GError **error);
/* Puts a text at PATH, below the root. */
void fl_tree_add_text(FlTree *tree, const char *path, FlMakeText make, void *opaque);

const GPtrArray *fl_tree_exports(const FlTree *tree); /* of FlExport */

FlNode *fl_tree_root(const FlTree *tree);
/* Both return NULL if there is none, and *ROOM, filled in, if it is a piece. */
FlNode *fl_tree_find(const FlTree *tree, uint64_t ino, FlNode *room);
FlNode *fl_node_lookup(const FlTree *tree, const FlNode *folder, const char *name, FlNode *room);
/* Piece INDEX of FOLDER, whose name is not filled in. */
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
