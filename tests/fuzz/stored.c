/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Files of stored backups: mapfiles, written as overlays, qcow2 images, and times. The first byte
 * selects which. */
#include "fuzz.h"
#include "stored/files.h"
#include "stored/when.h"

#include <glib.h>
#include <sys/mman.h>
#include <unistd.h>

#define DISK_BYTES (UINT64_C(1) << 20)

static void try_mapfile(const char *text, size_t size)
{
    g_autoptr(FlMap) map = fl_mapfile_parse(text, size, DISK_BYTES, NULL);
    int fd;

    if (map == NULL)
        return;
    g_assert_cmpuint(fl_map_size(map), ==, DISK_BYTES);
    fd = memfd_create("overlay", MFD_CLOEXEC);
    if (fl_overlay_write(fd, map, NULL))
        g_assert_cmpint(lseek(fd, 0, SEEK_END) % 512, ==, 0);
    close(fd);
}

static void try_qcow2(const uint8_t *data, size_t size)
{
    int fd = memfd_create("image", MFD_CLOEXEC);

    g_assert_cmpint(write(fd, data, size), ==, (ssize_t)size);
    fl_stored_check_qcow2(fd, DISK_BYTES, size % 2 == 0, NULL);
    close(fd);
}

static void try_when(const char *text, size_t size)
{
    g_autoptr(GDateTime) now = g_date_time_new_utc(2026, 11, 26, 12, 0, 0);
    g_autofree char *when = g_strndup(text, size);
    GDateTime *end;

    if (!g_utf8_validate(when, -1, NULL))
        return;
    end = fl_when_end(when, now);
    if (end != NULL)
        g_date_time_unref(end);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    switch (data[0]) {
    case 'm':
        try_mapfile((const char *)data + 1, size - 1);
        break;
    case 'q':
        try_qcow2(data + 1, size - 1);
        break;
    case 'w':
        try_when((const char *)data + 1, size - 1);
        break;
    }
    return 0;
}
