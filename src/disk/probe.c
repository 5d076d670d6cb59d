/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "probe.h"

#include "config.h"

#ifdef HAVE_BLKID

#include "util/printable.h"

#include <blkid.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Unit of libblkid's offsets, regardless of the disk's sector size. */
#define UNIT        512u
#define PRIMARY_MAX 4 /* partitions of an MBR */

bool fl_probe_is_there(void)
{
    return true;
}

static char *copy_text(const char *text)
{
    return text != NULL && *text != '\0' ? fl_printable(text) : NULL;
}

static void take_entry(GArray *entries, const char *kind, blkid_partition found)
{
    bool gpt = strcmp(kind, "gpt") == 0;
    blkid_loff_t start = blkid_partition_get_start(found), size = blkid_partition_get_size(found);
    int number = blkid_partition_get_partno(found);
    FlTableEntry entry = {.partition = {.number = (unsigned)number}};

    /* Higher numbers are tables within partitions of an MBR, and logical partitions visible to
     * libblkid. */
    if (number <= 0 || (!gpt && number > PRIMARY_MAX) || start < 0 || size <= 0 ||
        start > INT64_MAX / UNIT || size > INT64_MAX / UNIT)
        return;
    entry.partition.start = (uint64_t)start * UNIT;
    entry.partition.length = (uint64_t)size * UNIT;
    if (gpt) {
        entry.partition.type = copy_text(blkid_partition_get_type_string(found));
        entry.partition.uuid = copy_text(blkid_partition_get_uuid(found));
        entry.partition.name = copy_text(blkid_partition_get_name(found));
    } else {
        entry.partition.type = g_strdup_printf("0x%02x", (unsigned)blkid_partition_get_type(found));
        entry.extended = blkid_partition_is_extended(found) != 0;
    }
    g_array_append_val(entries, entry);
}

static const char *look(blkid_probe probe, bool link, GArray *entries, char **id)
{
    char *kinds[] = {(char *)"dos", link ? NULL : (char *)"gpt", NULL};
    blkid_partlist list = NULL;
    blkid_parttable found = NULL;
    const char *kind = NULL;

    if (blkid_probe_filter_partitions_type(probe, BLKID_FLTR_ONLYIN, kinds) == 0)
        list = blkid_probe_get_partitions(probe);
    if (list != NULL)
        found = blkid_partlist_get_table(list);
    for (char **k = kinds; found != NULL && *k != NULL; k++) {
        if (g_strcmp0(blkid_parttable_get_type(found), *k) == 0)
            kind = *k;
    }
    if (kind == NULL)
        return NULL;
    *id = copy_text(blkid_parttable_get_id(found));
    for (int i = 0; i < blkid_partlist_numof_partitions(list); i++)
        take_entry(entries, kind, blkid_partlist_get_partition(list, i));
    return kind;
}

/*
 * Creates a probe for BYTES, the first LENGTH bytes of SIZE; *FD is its file, or -1. libblkid
 * checks only in blkid_probe_set_device() that the file has SIZE bytes. The file is truncated to
 * LENGTH afterwards, so that a read which a table causes past that fails at once, however long it
 * is, instead of returning zeros.
 */
static blkid_probe new_probe(const void *bytes, size_t length, uint64_t size, int *fd)
{
    blkid_probe probe = blkid_new_probe();

    *fd = memfd_create("partition table", MFD_CLOEXEC);
    if (*fd >= 0 && probe != NULL && write(*fd, bytes, length) == (ssize_t)length &&
        ftruncate(*fd, (off_t)size) == 0 &&
        blkid_probe_set_device(probe, *fd, 0, (blkid_loff_t)size) == 0 &&
        ftruncate(*fd, (off_t)length) == 0)
        return probe;
    blkid_free_probe(probe);
    return NULL;
}

static void free_probe(blkid_probe probe, int fd)
{
    blkid_free_probe(probe);
    if (fd >= 0)
        close(fd);
}

const char *fl_probe_table(const void *bytes, size_t length, uint64_t size, uint32_t sector,
                           bool link, GArray *entries, char **id)
{
    int fd;
    blkid_probe probe = new_probe(bytes, length, size, &fd);
    const char *kind = NULL;

    if (probe != NULL && blkid_probe_set_sectorsize(probe, sector) == 0)
        kind = look(probe, link, entries, id);
    free_probe(probe, fd);
    return kind;
}

static char *take_value(blkid_probe probe, const char *name)
{
    const char *value = NULL;

    return blkid_probe_lookup_value(probe, name, &value, NULL) == 0 ? copy_text(value) : NULL;
}

void fl_probe_content(const void *bytes, size_t length, uint64_t size, FlContent *content)
{
    int fd;
    blkid_probe probe = new_probe(bytes, length, size, &fd);

    /* More than one match counts as none: it is unknown which of them is stale. */
    if (probe != NULL && blkid_probe_enable_superblocks(probe, 1) == 0 &&
        blkid_probe_set_superblocks_flags(probe, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_LABEL |
                                                     BLKID_SUBLKS_UUID) == 0 &&
        blkid_do_safeprobe(probe) == 0) {
        content->type = take_value(probe, "TYPE");
        content->label = take_value(probe, "LABEL");
        content->uuid = take_value(probe, "UUID");
    }
    free_probe(probe, fd);
}

#else

bool fl_probe_is_there(void)
{
    return false;
}

const char *fl_probe_table(const void *bytes, size_t length, uint64_t size, uint32_t sector,
                           bool link, GArray *entries, char **id)
{
    return NULL;
}

void fl_probe_content(const void *bytes, size_t length, uint64_t size, FlContent *content)
{
}

#endif
