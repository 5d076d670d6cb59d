/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "formats.h"

#include <string.h>

/* Maximum block size of a pool in sectors: 1 GiB (the kernel's thin-provisioning.rst). */
#define BLOCK_MAX (UINT64_C(2) << 20)

/* The element being parsed; each may be nested in the one before it. */
typedef enum {
    DEPTH_TEXT,
    DEPTH_SUPERBLOCK,
    DEPTH_DIFF,
    DEPTH_RUN,   /* <same> and the like */
    DEPTH_RANGE, /* <range> in a run, with --verbose */
} Depth;

typedef struct {
    FlRanges *ranges;
    Depth depth;
    uint64_t block; /* bytes */
    bool dirty;     /* the current run is dirty */
    bool has_diff;
    bool failed; /* the error is set */
} Thin;

static bool number_of(const char *const *names, const char *const *values, const char *name,
                      uint64_t *number)
{
    for (; *names != NULL; names++, values++) {
        const char *at = *values, *end = at + strlen(at);

        if (g_str_equal(*names, name))
            return fl_ranges_number(&at, end, false, number) && at == end;
    }
    return false;
}

static bool has(const char *const *names, const char *name)
{
    return g_strv_contains(names, name);
}

static bool take_range(Thin *thin, const char *const *names, const char *const *values)
{
    FlRanges *ranges = thin->ranges;
    uint64_t begin, count, start, length;

    if (!number_of(names, values, "begin", &begin) || !number_of(names, values, "length", &count))
        return fl_ranges_fail(ranges, "numbers are missing: begin=\"...\" length=\"...\"");
    if (begin > INT64_MAX / thin->block || count > INT64_MAX / thin->block)
        return fl_ranges_fail(ranges, "a number that is too large");
    start = begin * thin->block;
    length = count * thin->block;
    /* The last block may extend past the end of the disk. */
    if (start < ranges->size && length > ranges->size - start &&
        length - (ranges->size - start) < thin->block)
        length = ranges->size - start;
    return fl_ranges_add(ranges, start, length, thin->dirty);
}

static bool take_superblock(Thin *thin, const char *const *names, const char *const *values)
{
    uint64_t sectors;

    if (!number_of(names, values, "data_block_size", &sectors) || sectors == 0 ||
        sectors > BLOCK_MAX)
        return fl_ranges_fail(thin->ranges, "<superblock> has no usable data_block_size");
    thin->block = sectors * 512;
    return true;
}

static bool take_run(Thin *thin, const char *name, const char *const *names,
                     const char *const *values)
{
    static const char *const changed[] = {"different", "left_only", "right_only", NULL};

    thin->dirty = g_strv_contains(changed, name);
    if (!thin->dirty && !g_str_equal(name, "same"))
        return fl_ranges_fail(thin->ranges, "unknown element <%s> in <diff>", name);
    return !has(names, "begin") || take_range(thin, names, values);
}

static bool take_element(Thin *thin, const char *name, const char *const *names,
                         const char *const *values)
{
    if (thin->depth == DEPTH_TEXT && g_str_equal(name, "superblock") && thin->block == 0)
        return take_superblock(thin, names, values);
    if (thin->depth == DEPTH_SUPERBLOCK && g_str_equal(name, "diff") && !thin->has_diff)
        return thin->has_diff = true;
    if (thin->depth == DEPTH_DIFF)
        return take_run(thin, name, names, values);
    if (thin->depth == DEPTH_RUN && g_str_equal(name, "range"))
        return take_range(thin, names, values);
    return fl_ranges_fail(thin->ranges, "unexpected element <%s>: this is not output of thin_delta",
                          name);
}

static void on_start(GMarkupParseContext *context, const char *name, const char **names,
                     const char **values, gpointer opaque, GError **error)
{
    Thin *thin = opaque;
    int line;

    g_markup_parse_context_get_position(context, &line, NULL);
    thin->ranges->line = (unsigned long)line;
    thin->failed =
        !take_element(thin, name, (const char *const *)names, (const char *const *)values);
    thin->depth++;
    /* Stops the parser; the error set in RANGES is the one reported. */
    if (thin->failed)
        g_set_error_literal(error, G_MARKUP_ERROR, G_MARKUP_ERROR_INVALID_CONTENT, "");
}

static void on_end(GMarkupParseContext *context, const char *name, gpointer opaque, GError **error)
{
    ((Thin *)opaque)->depth--;
}

static const GMarkupParser parser = {.start_element = on_start, .end_element = on_end};

bool fl_textmap_thin(FlRanges *ranges, const char *text, size_t length)
{
    Thin thin = {.ranges = ranges};
    g_autoptr(GError) why = NULL;
    g_autoptr(GMarkupParseContext) context = g_markup_parse_context_new(&parser, 0, &thin, NULL);

    ranges->line = 1;
    if (!g_markup_parse_context_parse(context, text, (gssize)length, &why) ||
        !g_markup_parse_context_end_parse(context, &why)) {
        const char *place;
        int line;

        if (thin.failed)
            return false;
        g_markup_parse_context_get_position(context, &line, NULL);
        ranges->line = (unsigned long)line;
        /* Strip GLib's own line number. */
        place = strstr(why->message, ": ");
        return fl_ranges_fail(ranges, "broken XML: %s", place != NULL ? place + 2 : why->message);
    }
    if (!thin.has_diff)
        return fl_ranges_fail(ranges, "no <diff>: this is not output of thin_delta");
    return fl_ranges_end(ranges, false);
}
