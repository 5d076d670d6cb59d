/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "changed/volume.h"

#include "place.h"
#include "text-map.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

/* The map of what changed on the disk. */
static FlMap *read_maps(const FlPlace *place, const FlVolumeOptions *options, GError **error)
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
                        "%s: of %" PRIu64 " bytes, where %s is of %" PRIu64
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

/* What of the DISK's map concerns the file at PLACE, by offsets of the file. */
static FlMap *cut(const FlMap *disk, const FlPlace *place, uint64_t size, GError **error)
{
    g_autoptr(FlMapBuilder) builder = fl_map_builder_new();
    uint64_t left = size;

    for (guint i = 0; i < place->parts->len && left > 0; i++) {
        FlExtent part = g_array_index(place->parts, FlExtent, i);
        uint64_t at = part.start, end = part.start + MIN(part.end - part.start, left);

        if (end > fl_map_size(disk)) {
            fl_fail(error,
                    "the map of what changed ends at %" PRIu64 ", before %s does: it is of "
                    "another disk",
                    fl_map_size(disk), place->path);
            return NULL;
        }
        left -= end - at;
        for (size_t j = at < end ? fl_map_find(disk, at) : 0; at < end; j++) {
            FlExtent extent = fl_map_get(disk, j);
            uint64_t to = MIN(extent.end, end);

            if (fl_map_builder_add(builder, to - at, extent.type) != 0) {
                fl_fail(error, "%s: out of memory for the map of what changed", place->path);
                return NULL;
            }
            at = to;
        }
    }
    if (left > 0) {
        fl_fail(error, "%s: longer than info.json beside it says", place->path);
        return NULL;
    }
    return fl_map_builder_finish(g_steal_pointer(&builder));
}

FlVolume *fl_volume_open(const char *path, const FlVolumeOptions *options, GError **error)
{
    g_autoptr(FlVolume) volume = g_new0(FlVolume, 1);
    g_autoptr(FlPlace) place = NULL;
    g_autoptr(FlMap) disk = NULL;
    off_t size;

    volume->path = g_strdup(path);
    volume->fd = open(path, O_RDONLY | O_CLOEXEC);
    size = volume->fd < 0 ? -1 : lseek(volume->fd, 0, SEEK_END);
    if (size < 0) {
        fl_fail(error, "%s: %s", path, g_strerror(errno));
        return NULL;
    }
    volume->size = (uint64_t)size;
    place =
        fl_place_find(path, volume->size, options->maps != NULL && options->maps[0] != NULL, error);
    if (place == NULL)
        return NULL;
    disk = read_maps(place, options, error);
    if (disk == NULL)
        return NULL;
    volume->changed = cut(disk, place, volume->size, error);
    if (volume->changed == NULL)
        return NULL;
    volume->guest_clock = options->newer >= 0;
    volume->since = volume->guest_clock ? options->newer : fl_place_since(place, options->since);
    volume->snapshot = place->snapshot;
    return g_steal_pointer(&volume);
}

void fl_volume_free(FlVolume *volume)
{
    if (volume == NULL)
        return;
    if (volume->fd >= 0)
        close(volume->fd);
    fl_map_unref(volume->changed);
    g_free(volume->path);
    g_free(volume);
}

errint_t fl_volume_read(const FlVolume *volume, void *buf, size_t length, uint64_t offset)
{
    if (offset > volume->size || length > volume->size - offset)
        return -EIO;
    for (size_t done = 0; done < length;) {
        ssize_t n = pread(volume->fd, (char *)buf + done, length - done, (off_t)(offset + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        done += (size_t)n;
    }
    return 0;
}

bool fl_volume_next(const FlVolume *volume, uint64_t offset, uint64_t end, FlExtent *extent)
{
    end = MIN(end, volume->size);
    if (offset >= end)
        return false;
    for (size_t i = fl_map_find(volume->changed, offset); offset < end; i++) {
        FlExtent found = fl_map_get(volume->changed, i);

        if ((found.type & FL_DIRTY) != 0) {
            *extent = (FlExtent){offset, MIN(found.end, end), found.type};
            return true;
        }
        offset = found.end;
    }
    return false;
}

uint64_t fl_volume_changed(const FlVolume *volume, uint64_t length, uint64_t offset)
{
    uint64_t end = length > UINT64_MAX - offset ? UINT64_MAX : offset + length, bytes = 0;
    FlExtent extent;

    for (; fl_volume_next(volume, offset, end, &extent); offset = extent.end)
        bytes += extent.end - extent.start;
    return bytes;
}
