/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The partitions of a disk, read from its GPT or MBR by libblkid, and their contents: file systems,
 * and the logical volumes of LVM2.
 *
 * A table is a state machine without I/O: it requests ranges of the disk and is fed their bytes
 * until it needs no more. It requests the start of the disk, then each link in the chain of logical
 * partitions, which may be anywhere; then the start of each partition, or of the disk if there are
 * none, and the LVM2 metadata. libblkid sees only these few bytes, so a hostile table cannot make
 * it read or allocate more. Its results are checked here: partitions that are not on the disk, or
 * that overlap, are left out. A GPT is found by its primary header only, as in Linux. Without
 * libblkid no table is ever found. Not thread-safe.
 */
#pragma once

#include "util/error.h"
#include "view/volume.h"

#include <stddef.h>
#include <stdint.h>

/* A file system or similar, named as by libblkid: "ext4", "crypto_LUKS". Printable; NULL if unknown
 * or not set. */
typedef struct {
    char *type, *label, *uuid;
} FlContent;
void fl_content_clear(FlContent *content);

typedef struct {
    unsigned number;        /* as numbered by Linux: logical partitions from 5 on */
    uint64_t start, length; /* bytes */
    char *type;             /* "0x83" or a GUID */
    char *uuid, *name;      /* NULL: none; NAME is printable */
    FlContent content;
} FlPartition;

/* A logical volume that lies entirely on this disk. */
typedef struct {
    char *group, *name; /* letters, digits and "+_.-" only */
    char *uuid;         /* printable */
    uint64_t size;      /* bytes */
    GArray *parts;      /* of FlVolumePart */
    FlContent content;
} FlVolume;
void fl_volume_free(FlVolume *volume); /* NULL is fine */

typedef struct FlTable FlTable;

/* Creates the table of a disk of SIZE bytes. SECTOR: the smallest read that the server supports, in
 * bytes; 0: unknown. */
FlTable *fl_table_new(uint64_t size, uint32_t sector);
void fl_table_free(FlTable *table); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlTable, fl_table_free)

/* The range to read next: at most FL_TABLE_MAX bytes, within the disk. False: the table is
 * complete. */
#define FL_TABLE_MAX (72u << 10)
bool fl_table_wants(const FlTable *table, uint64_t *offset, size_t *length);
/* Supplies the bytes of that range; the caller keeps them. */
void fl_table_feed(FlTable *table, const void *bytes);
/* That range cannot be read: continues without it. False if it contains the table itself. */
bool fl_table_skip(FlTable *table);
/* Stops early: uses what is known so far. False if the table itself is not known yet. */
bool fl_table_stop(FlTable *table);

/* Valid once complete: "gpt", "dos", or NULL if there is none. */
const char *fl_table_kind(const FlTable *table);
const GPtrArray *fl_table_partitions(const FlTable *table); /* of FlPartition, by number */
/* The contents of the disk itself, if it has no table. */
const FlContent *fl_table_content(const FlTable *table);
/* Logical volumes, and messages about those left out; NULL: none. */
const GPtrArray *fl_table_volumes(const FlTable *table);          /* of FlVolume */
const GPtrArray *fl_table_volumes_left_out(const FlTable *table); /* of char * */
/* Messages about partitions left out: "3: reaches past the end of the disk". */
const GPtrArray *fl_table_left_out(const FlTable *table); /* of char * */
