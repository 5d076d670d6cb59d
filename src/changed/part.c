/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "changed/part.h"

#include "place.h"
#include "text-map.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

/* Reads the map of changes of the disk. */
static FlMap *read_maps(const FlPlace *place, const FlPartOptions *options, GError **error)
{
    g_autoptr(FlMap) changed = NULL;

    if (options->maps == NULL || options->maps[0] == NULL)
        return fl_place_read_bitmaps(place, options->since, options->until, error);
    for (char **path = options->maps; *path != NULL; path++) {
        g_autoptr(FlMap) map = fl_text_map_read(*path, error);

        if (map == NULL)
            return NULL;
        if (changed == NULL) {
            changed = g_steal_pointer(&map);
        } else {
            g_autoptr(FlMap) both = fl_text_map_unite(changed, map);

            if (both == NULL) {
                fl_fail(error,
                        "%s: %" PRIu64 " bytes, but %s has %" PRIu64
                        ": these are maps of different disks",
                        *path, fl_map_size(map), options->maps[0], fl_map_size(changed));
                return NULL;
            }
            fl_map_unref(changed);
            changed = g_steal_pointer(&both);
        }
    }
    return g_steal_pointer(&changed);
}

/* Cuts the part of the DISK's map that covers the file at PLACE; offsets are those of the file. */
static FlMap *cut(const FlMap *disk, const FlPlace *place, uint64_t size, GError **error)
{
    g_autoptr(FlMapBuilder) builder = fl_map_builder_new();
    uint64_t left = size;

    for (guint i = 0; i < place->stretches->len && left > 0; i++) {
        const FlStretch *stretch = &g_array_index(place->stretches, FlStretch, i);
        uint64_t at = stretch->disk, end = stretch->disk + MIN(stretch->length, left);

        if (end > fl_map_size(disk)) {
            fl_fail(error,
                    "the map of changes ends at %" PRIu64
                    ", before the end of %s: it is of another disk",
                    fl_map_size(disk), place->path);
            return NULL;
        }
        left -= end - at;
        for (size_t j = at < end ? fl_map_find(disk, at) : 0; at < end; j++) {
            FlExtent extent = fl_map_get(disk, j);
            uint64_t to = MIN(extent.end, end);

            if (fl_map_builder_add(builder, to - at, extent.type) != 0) {
                fl_fail(error, "%s: out of memory for the map of changes", place->path);
                return NULL;
            }
            at = to;
        }
    }
    if (left > 0) {
        fl_fail(error, "%s: longer than its info.json says", place->path);
        return NULL;
    }
    return fl_map_builder_finish(g_steal_pointer(&builder));
}

FlPart *fl_part_open(const char *path, const FlPartOptions *options, GError **error)
{
    g_autoptr(FlPart) part = g_new0(FlPart, 1);
    g_autoptr(FlPlace) place = NULL;
    g_autoptr(FlMap) disk = NULL;
    off_t size;

    part->path = g_strdup(path);
    part->fd = open(path, O_RDONLY | O_CLOEXEC);
    size = part->fd < 0 ? -1 : lseek(part->fd, 0, SEEK_END);
    if (size < 0) {
        fl_fail(error, "%s: %s", path, g_strerror(errno));
        return NULL;
    }
    part->size = (uint64_t)size;
    place =
        fl_place_find(path, part->size, options->maps != NULL && options->maps[0] != NULL, error);
    if (place == NULL)
        return NULL;
    disk = read_maps(place, options, error);
    if (disk == NULL)
        return NULL;
    part->changed = cut(disk, place, part->size, error);
    if (part->changed == NULL)
        return NULL;
    part->stretches = g_array_ref(place->stretches);
    part->guest_clock = options->newer >= 0;
    part->since = part->guest_clock ? options->newer : fl_place_since(place, options->since);
    part->snapshot = place->snapshot;
    return g_steal_pointer(&part);
}

void fl_part_free(FlPart *part)
{
    if (part == NULL)
        return;
    if (part->fd >= 0)
        close(part->fd);
    fl_map_unref(part->changed);
    g_clear_pointer(&part->stretches, g_array_unref);
    g_free(part->path);
    g_free(part);
}

errint_t fl_part_read(const FlPart *part, void *buf, size_t length, uint64_t offset)
{
    if (offset > part->size || length > part->size - offset)
        return -EIO;
    for (size_t done = 0; done < length;) {
        ssize_t n = pread(part->fd, (char *)buf + done, length - done, (off_t)(offset + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        done += (size_t)n;
    }
    return 0;
}

bool fl_part_next(const FlPart *part, uint64_t offset, uint64_t end, FlExtent *extent)
{
    end = MIN(end, part->size);
    if (offset >= end)
        return false;
    for (size_t i = fl_map_find(part->changed, offset); offset < end; i++) {
        FlExtent found = fl_map_get(part->changed, i);

        if ((found.type & FL_DIRTY) != 0) {
            *extent = (FlExtent){offset, MIN(found.end, end), found.type};
            return true;
        }
        offset = found.end;
    }
    return false;
}

uint64_t fl_part_disk(const FlPart *part, uint64_t offset, uint64_t *length)
{
    const FlStretch *stretches = (const FlStretch *)(void *)part->stretches->data;
    guint low = 0, high = part->stretches->len;

    while (high - low > 1) {
        guint middle = low + (high - low) / 2;

        if (stretches[middle].start <= offset)
            low = middle;
        else
            high = middle;
    }
    *length = MIN(*length, stretches[low].start + stretches[low].length - offset);
    return stretches[low].disk + (offset - stretches[low].start);
}

uint64_t fl_part_changed(const FlPart *part, uint64_t length, uint64_t offset)
{
    uint64_t end = length > UINT64_MAX - offset ? UINT64_MAX : offset + length, bytes = 0;
    FlExtent extent;

    for (; fl_part_next(part, offset, end, &extent); offset = extent.end)
        bytes += extent.end - extent.start;
    return bytes;
}
