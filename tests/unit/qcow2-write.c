/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * qcow2-write [OPTIONS] MAP DISK OUT: writes the qcow2 view of a disk, for tests with stock tools.
 *
 * MAP is a text file with an extent a line, "LENGTH TYPE", TYPE being letters: d(irty), z(ero),
 * h(ole), or - for none; or random:SIZE:GRANULE:PERMILLE, dirty granules at random. DISK is the raw
 * disk; with
 * - the data in OUT is left a hole. OUT may be -: nothing is written then. Prints what was done as
 * JSON. Exit status 4: a read would have asked for what the maps say must not be asked for.
 */
#include "map/join.h"
#include "util/size.h"
#include "view/qcow2.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#define READ_SIZE (128u << 10) /* as the kernel's */

static char *cluster_size_text, *granularity_text, *backing, *backing_fmt;
static gboolean exact, whole, no_alloc;

static const GOptionEntry entries[] = {
    {"cluster-size", 0, 0, G_OPTION_ARG_STRING, &cluster_size_text, "Cluster size", "SIZE"},
    {"granularity", 0, 0, G_OPTION_ARG_STRING, &granularity_text, "Of the bitmap", "SIZE"},
    {"backing", 0, 0, G_OPTION_ARG_STRING, &backing, "Backing file", "NAME"},
    {"backing-fmt", 0, 0, G_OPTION_ARG_STRING, &backing_fmt, "Its format", "FMT"},
    {"exact", 0, 0, G_OPTION_ARG_NONE, &exact, "Never read a clean byte", NULL},
    {"whole", 0, 0, G_OPTION_ARG_NONE, &whole, "The whole disk: no dirty map", NULL},
    {"no-alloc", 0, 0, G_OPTION_ARG_NONE, &no_alloc, "No allocation map", NULL},
    {NULL},
};

static FlQcow2Params params;
static int disk_fd = -1;

static void die(int status, const char *what)
{
    fprintf(stderr, "qcow2-write: %s\n", what);
    exit(status);
}

static uint64_t parse_size(const char *text)
{
    g_autoptr(GError) error = NULL;
    uint64_t size = 0;

    if (text != NULL && !fl_size_parse(text, &size, &error))
        die(2, error->message);
    return size;
}

static void add(FlMapBuilder *builder, uint64_t length, uint32_t type)
{
    if (fl_map_builder_add(builder, length, type) < 0)
        die(2, "the map is too long");
}

static void random_maps(const char *spec, FlMapBuilder *alloc, FlMapBuilder *dirty)
{
    g_auto(GStrv) fields = g_strsplit(spec, ":", 4);
    uint64_t size = parse_size(fields[1]), granule = parse_size(fields[2]);
    uint64_t permille = strtoull(fields[3], NULL, 10);
    uint64_t state = 88172645463325252; /* xorshift64: G. Marsaglia, "Xorshift RNGs" */

    add(alloc, size, 0);
    for (uint64_t at = 0; at < size; at += granule) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        add(dirty, MIN(granule, size - at), state % 1000 < permille ? FL_DIRTY : 0);
    }
}

static void read_maps(const char *path, FlMapBuilder *alloc, FlMapBuilder *dirty)
{
    FILE *file = fopen(path, "r");
    uint64_t length;
    char type[8];

    if (file == NULL)
        die(2, "cannot open the map");
    while (fscanf(file, "%" SCNu64 " %7s", &length, type) == 2) {
        uint32_t flags = 0;

        for (const char *p = type; *p != '\0'; p++)
            flags |= *p == 'z' ? FL_ALLOC_ZERO : *p == 'h' ? FL_ALLOC_HOLE : 0;
        add(alloc, length, flags);
        add(dirty, length, type[0] == 'd' ? FL_DIRTY : 0);
    }
    fclose(file);
}

/* Fails the program where the view breaks its word. */
static void check_fetch(const FlMap *alloc, const FlMap *dirty, const FlPiece *piece)
{
    uint64_t end = piece->disk_offset + (piece->end - piece->start);
    FlJoin join;
    FlRange range;

    if (end > params.disk_size)
        die(4, "a piece goes past the end of the disk");
    fl_join_init(&join, alloc, dirty, params.disk_size, piece->disk_offset,
                 FL_JOIN_DIRTY | FL_JOIN_ZERO);
    while (fl_join_next(&join, &range) && range.start < end) {
        if (exact && !range.dirty)
            die(4, "a clean byte is asked for");
        if (range.zero && !no_alloc)
            die(4, "a known zero is asked for");
    }
}

static void write_out(int fd, const void *buf, size_t length, uint64_t offset)
{
    if (fd >= 0 && pwrite(fd, buf, length, (off_t)offset) != (ssize_t)length)
        die(1, "cannot write");
}

static void read_disk(void *buf, size_t length, uint64_t offset)
{
    if (pread(disk_fd, buf, length, (off_t)offset) != (ssize_t)length)
        die(1, "cannot read the disk");
}

/* Returns how many bytes were made and not of the disk; the time that took goes to SECONDS. */
static uint64_t copy(const FlView *view, const FlMap *alloc, const FlMap *dirty, int out,
                     double *seconds)
{
    static uint8_t buf[READ_SIZE];
    static const uint8_t zeros[READ_SIZE];
    uint64_t made = 0;

    for (uint64_t at = 0; at < view->size;) {
        FlPiece piece = fl_view_piece(view, at);
        size_t n = (size_t)MIN(piece.end - at, READ_SIZE);
        gint64 before;

        if (piece.kind == FL_PIECE_DISK) {
            if (piece.start == at)
                check_fetch(alloc, dirty, &piece);
            if (disk_fd < 0)
                n = (size_t)(piece.end - at);
            else
                read_disk(buf, n, piece.disk_offset);
        } else if (piece.kind == FL_PIECE_MADE) {
            before = g_get_monotonic_time();
            fl_view_make(view, buf, n, at);
            *seconds += (double)(g_get_monotonic_time() - before) / 1e6;
            made += n;
        }
        if (piece.kind != FL_PIECE_DISK || disk_fd >= 0)
            write_out(out, piece.kind == FL_PIECE_DISK || piece.kind == FL_PIECE_MADE ? buf : zeros,
                      n, at);
        at += n;
    }
    return made;
}

int main(int argc, char **argv)
{
    g_autoptr(GOptionContext) context = g_option_context_new("MAP DISK OUT");
    g_autoptr(FlMapBuilder) alloc_builder = fl_map_builder_new();
    g_autoptr(FlMapBuilder) dirty_builder = fl_map_builder_new();
    g_autoptr(FlMap) alloc = NULL;
    g_autoptr(FlMap) dirty = NULL;
    g_autoptr(FlView) view = NULL;
    g_autoptr(GError) error = NULL;
    struct rusage before, after;
    double construct, make = 0;
    uint64_t made;
    gint64 start;
    int out = -1;

    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error))
        die(2, error->message);
    if (argc != 4)
        die(2, "needs MAP DISK OUT");

    if (g_str_has_prefix(argv[1], "random:"))
        random_maps(argv[1], alloc_builder, dirty_builder);
    else
        read_maps(argv[1], alloc_builder, dirty_builder);
    alloc = fl_map_builder_finish(g_steal_pointer(&alloc_builder));
    dirty = fl_map_builder_finish(g_steal_pointer(&dirty_builder));

    params = (FlQcow2Params){
        .alloc = no_alloc ? NULL : alloc,
        .dirty = whole ? NULL : dirty,
        .disk_size = fl_map_size(alloc),
        .granularity = parse_size(granularity_text),
        .cluster_size = parse_size(cluster_size_text),
        .backing = backing,
        .backing_fmt = backing_fmt,
        .exact = exact,
    };
    getrusage(RUSAGE_SELF, &before);
    start = g_get_monotonic_time();
    view = fl_view_qcow2_new(&params, &error);
    construct = (double)(g_get_monotonic_time() - start) / 1e6;
    getrusage(RUSAGE_SELF, &after);
    if (view == NULL)
        die(fl_error_exit_status(error), error->message);

    if (!g_str_equal(argv[2], "-") && (disk_fd = open(argv[2], O_RDONLY | O_CLOEXEC)) < 0)
        die(2, "cannot open the disk");
    if (!g_str_equal(argv[3], "-")) {
        out = open(argv[3], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        if (out < 0 || ftruncate(out, (off_t)view->size) < 0)
            die(1, "cannot make the output");
    }
    made = copy(view, alloc, dirty, out, &make);
    printf("{\"size\": %" PRIu64 ", \"cluster_size\": %" PRIu64 ", \"virtual_size\": %" PRIu64
           ", \"made\": %" PRIu64 ", \"extents\": %zu, \"construct_seconds\": %.3f"
           ", \"make_seconds\": %.3f, \"rss_kib\": %ld, \"view_rss_kib\": %ld}\n",
           view->size, fl_view_qcow2_cluster_size(view), fl_view_qcow2_virtual_size(view), made,
           fl_map_count(dirty), construct, make, after.ru_maxrss,
           after.ru_maxrss - before.ru_maxrss);
    return 0;
}
