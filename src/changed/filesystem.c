/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "changed/filesystem.h"

#include "config.h"

#include <string.h>

/* File systems with a magic number at a fixed offset. */
typedef struct {
    uint64_t offset;
    const char *magic;
    FlWalkFunc *walk; /* NULL: unsupported, WHAT is the reason */
    const char *what;
} Kind;

static const Kind kinds[] = {
    {0x438, "\x53\xef", fl_walk_ext, NULL},
    {3, "NTFS    ", fl_walk_ntfs, NULL},
    {3, "EXFAT   ", fl_walk_exfat, NULL},
    {54, "FAT1", fl_walk_fat, NULL},
    {82, "FAT32", fl_walk_fat, NULL},
    {0x400, "H+", fl_walk_hfs, NULL},
    {0x400, "HX", fl_walk_hfs, NULL},
    {0, "XFSB", NULL, "XFS, which no library reads; only dirty/*.map tells what changed"},
    {0x10040, "_BHRfS_M", NULL,
     "btrfs, which no library reads; only dirty/*.map tells what changed"},
    {0, "LUKS\xba\xbe", NULL, "encrypted (LUKS)"},
    {0, "-FVE-FS-", NULL, "encrypted (BitLocker)"},
    {512, "LABELONE", NULL, "a physical volume of LVM; give its logical ones, as lv/VG-LV.raw"},
    {0xff6, "SWAPSPACE2", NULL, "swap space"},
};

/* False if PART is too small to contain OFFSET: EFI and boot partitions may be. */
static bool holds(const FlPart *part, uint64_t offset, const char *magic)
{
    char found[16];
    size_t length = strlen(magic);

    return fl_part_read(part, found, length, offset) == 0 && memcmp(found, magic, length) == 0;
}

FlChangedList *fl_walk(const FlPart *part, FlWalk *walk, GError **error)
{
    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
        if (!holds(part, kinds[i].offset, kinds[i].magic))
            continue;
        if (kinds[i].walk != NULL)
            return kinds[i].walk(part, walk, error);
        fl_fail(error, "%s: %s", part->path, kinds[i].what);
        return NULL;
    }
    fl_fail(error,
            "%s: no supported file system (ext2, ext3, ext4, NTFS, FAT, exFAT, HFS+); for a disk "
            "with partitions give a partition, such as part1.raw",
            part->path);
    return NULL;
}
