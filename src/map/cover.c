/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "map/cover.h"

typedef struct {
    uint64_t start, end;
} Range;

struct FlCover {
    GTree *ranges; /* of Range by start; they neither overlap nor touch */
};

static int compare(gconstpointer a, gconstpointer b, gpointer data)
{
    const Range *x = a, *y = b;

    return x->start < y->start ? -1 : x->start > y->start;
}

FlCover *fl_cover_new(void)
{
    FlCover *cover = g_new0(FlCover, 1);

    cover->ranges = g_tree_new_full(compare, NULL, g_free, NULL);
    return cover;
}

void fl_cover_free(FlCover *cover)
{
    if (cover == NULL)
        return;
    g_tree_unref(cover->ranges);
    g_free(cover);
}

/* The last range that starts at or before OFFSET; the first of all if there is none. */
static GTreeNode *at_or_before(const FlCover *cover, uint64_t offset)
{
    Range key = {.start = offset};
    GTreeNode *above = g_tree_upper_bound(cover->ranges, &key);
    GTreeNode *before =
        above != NULL ? g_tree_node_previous(above) : g_tree_node_last(cover->ranges);

    return before != NULL ? before : above;
}

void fl_cover_add(FlCover *cover, uint64_t start, uint64_t end)
{
    GTreeNode *node;
    Range *range;

    if (start >= end)
        return;
    node = at_or_before(cover, start);
    range = node != NULL ? g_tree_node_key(node) : NULL;
    if (range == NULL || range->start > start || range->end < start) {
        range = g_new(Range, 1);
        *range = (Range){start, end};
        node = g_tree_insert_node(cover->ranges, range, NULL);
    }
    range->end = MAX(range->end, end);
    /* What comes next may be reached now: it becomes part of this range. */
    while ((node = at_or_before(cover, range->start), node = g_tree_node_next(node)) != NULL) {
        Range *next = g_tree_node_key(node);

        if (next->start > range->end)
            break;
        range->end = MAX(range->end, next->end);
        g_tree_remove(cover->ranges, next);
    }
}

uint64_t fl_cover_bytes(const FlCover *cover, uint64_t start, uint64_t end)
{
    uint64_t bytes = 0;

    for (GTreeNode *node = at_or_before(cover, start); node != NULL;
         node = g_tree_node_next(node)) {
        const Range *range = g_tree_node_key(node);

        if (range->start >= end)
            break;
        if (range->end > start)
            bytes += MIN(range->end, end) - MAX(range->start, start);
    }
    return bytes;
}

bool fl_cover_next(const FlCover *cover, uint64_t offset, uint64_t *start, uint64_t *end)
{
    GTreeNode *node = at_or_before(cover, offset);
    const Range *range;

    if (node != NULL && ((const Range *)g_tree_node_key(node))->end <= offset)
        node = g_tree_node_next(node);
    if (node == NULL)
        return false;
    range = g_tree_node_key(node);
    *start = range->start;
    *end = range->end;
    return true;
}
