/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "view/pbm.h"

#include "util/size.h"
#include "view/text.h"

#include <string.h>

/* Larger widths are multiples of this, so that a row is a number of whole lines. */
#define LINE_CELLS      64
#define LINE_MAX_CHARS  70
#define GRANULARITY_MIN 512
#define GRANULARITY_MAX 65536

typedef struct {
    FlView view;
    FlMap *dirty;
    GBytes *head; /* up to the first cell */
    uint64_t cell;
    uint64_t line_cells; /* cells in a line of the file */
} PbmView;

static uint64_t guess_granularity(const FlMap *dirty)
{
    size_t count = fl_map_count(dirty);
    uint64_t bits = GRANULARITY_MAX;

    /* The end of the disk need not be aligned. */
    for (size_t i = 0; i + 1 < count; i++)
        bits |= fl_map_get(dirty, i).end;
    return MAX(bits & -bits, GRANULARITY_MIN);
}

/* The file offset of cell INDEX. */
static uint64_t cell_position(const PbmView *view, uint64_t index)
{
    return g_bytes_get_size(view->head) + index + index / view->line_cells;
}

/* The number of cells that start before file offset OFFSET, which is not in the head. */
static uint64_t cells_before(const PbmView *view, uint64_t offset)
{
    uint64_t at = offset - g_bytes_get_size(view->head);
    uint64_t line = at / (view->line_cells + 1);

    return line * view->line_cells + MIN(at % (view->line_cells + 1), view->line_cells);
}

/* Sets cells [FROM, TO) to 1 in BUF, which starts at file offset OFFSET, line by line. */
static void blacken(const PbmView *view, char *buf, uint64_t offset, uint64_t from, uint64_t to)
{
    while (from < to) {
        uint64_t n = MIN(to - from, view->line_cells - from % view->line_cells);

        memset(buf + (cell_position(view, from) - offset), '1', n);
        from += n;
    }
}

static void make_cells(const PbmView *view, char *buf, size_t length, uint64_t offset)
{
    uint64_t first = cells_before(view, offset), end = cells_before(view, offset + length);
    uint64_t in_line = (offset - g_bytes_get_size(view->head)) % (view->line_cells + 1);
    uint64_t disk_size = fl_map_size(view->dirty), disk_end;

    memset(buf, '0', length);
    for (uint64_t at = view->line_cells - in_line; at < length; at += view->line_cells + 1)
        buf[at] = '\n';

    if (first == end || first >= fl_div_up(disk_size, view->cell))
        return;
    disk_end = end > disk_size / view->cell ? disk_size : end * view->cell;
    for (size_t i = fl_map_find(view->dirty, first * view->cell);; i++) {
        FlExtent e = fl_map_get(view->dirty, i);

        if (e.type & FL_DIRTY)
            blacken(view, buf, offset, MAX(first, e.start / view->cell),
                    MIN(end, fl_div_up(e.end, view->cell)));
        if (e.end >= disk_end)
            break;
    }
}

static void pbm_make(const FlView *view, void *buf, size_t length, uint64_t offset)
{
    const PbmView *pbm = (const PbmView *)view;
    size_t head_length;
    const char *head = g_bytes_get_data(pbm->head, &head_length);
    size_t n = offset < head_length ? MIN(length, head_length - offset) : 0;

    if (n > 0)
        memcpy(buf, head + offset, n);
    if (length > n)
        make_cells(pbm, (char *)buf + n, length - n, offset + n);
}

static void pbm_clear(FlView *view)
{
    PbmView *pbm = (PbmView *)view;

    fl_map_unref(pbm->dirty);
    g_bytes_unref(pbm->head);
}

static const FlViewOps pbm_ops = {.piece = fl_text_piece, .make = pbm_make, .clear = pbm_clear};

/* Appends TEXT, ASCII without newlines, as comment lines of permitted length. */
static void append_comment(GString *head, const char *text)
{
    const size_t room = LINE_MAX_CHARS - strlen("# ");

    for (size_t n = strlen(text); n > 0;) {
        size_t take = MIN(n, room);
        g_string_append_printf(head, "# %.*s\n", (int)take, text);
        text += take;
        n -= take;
    }
}

static void append_comments(GString *head, uint64_t cell, uint64_t disk_size, const char *context)
{
    g_autofree char *sizes =
        g_strdup_printf("cell %" G_GUINT64_FORMAT ", disk %" G_GUINT64_FORMAT, cell, disk_size);
    /* Escape the name: a server may choose any string. */
    g_autofree char *name = g_uri_escape_string(context, ":/@,;=+!()[]", FALSE);
    g_autofree char *all = g_strdup_printf("%s, %s", sizes, name);

    /* Use one line if it fits; otherwise avoid splitting the name. */
    if (strlen("# ") + strlen(all) <= LINE_MAX_CHARS) {
        append_comment(head, all);
    } else {
        append_comment(head, sizes);
        append_comment(head, name);
    }
}

/* The width that makes a picture of CELLS cells about square. */
static uint64_t choose_width(uint64_t cells)
{
    uint64_t lines = 1; /* in a row */

    if (cells <= LINE_CELLS)
        return MAX(cells, 1);
    while (lines * LINE_CELLS * lines * LINE_CELLS < cells)
        lines++;
    return lines * LINE_CELLS;
}

FlView *fl_view_pbm_new(FlMap *dirty, uint64_t granularity, const char *context)
{
    FlView *view = fl_view_alloc(sizeof(PbmView), &pbm_ops);
    PbmView *pbm = (PbmView *)view;
    GString *head = g_string_new("P1\n");
    uint64_t size = fl_map_size(dirty), width, height;

    pbm->dirty = fl_map_ref(dirty);
    pbm->cell = granularity != 0 ? granularity : guess_granularity(dirty);
    while (fl_div_up(size, pbm->cell) > FL_PBM_CELLS_MAX)
        pbm->cell *= 2;

    width = choose_width(fl_div_up(size, pbm->cell));
    height = MAX(fl_div_up(fl_div_up(size, pbm->cell), width), 1);
    pbm->line_cells = MIN(width, LINE_CELLS);
    append_comments(head, pbm->cell, size, context);
    g_string_append_printf(head, "%" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT "\n", width, height);
    pbm->head = g_string_free_to_bytes(head);

    view->size = view->data_bytes = cell_position(pbm, width * height);
    return view;
}
