/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The partitions of a disk, read from its GPT or MBR by libblkid, and what is in them: file
 * systems, and the logical volumes of LVM2.
 *
 * A table is a machine without I/O: it says which bytes of the disk it wants, and is fed them,
 * until it wants no more. First that is the beginning of the disk, then each link in the chain of
 * logical partitions, which may be anywhere; then the beginning of each partition, or of the disk
 * if there are none, and the metadata of LVM2. libblkid sees no more than these few bytes, so that
 * a hostile table can make it neither read nor allocate more; and what it finds is checked here:
 * partitions that do not lie on the disk, or overlap, are left out. A GPT is found by its primary
 * header only, as Linux does. Without libblkid there is never a table. Not thread-safe.
 */
#pragma once

#include "util/error.h"
#include "view/volume.h"

#include <stddef.h>
#include <stdint.h>

/* A file system and the like, as libblkid calls it: "ext4", "crypto_LUKS". Printable; NULL: there
 * is none that is known, or it has none. */
typedef struct {
    char *type, *label, *uuid;
} FlContent;
void fl_content_clear(FlContent *content);

typedef struct {
    unsigned number;        /* as Linux counts: logical ones from 5 on */
    uint64_t start, length; /* bytes */
    char *type;             /* "0x83" or a GUID */
    char *uuid, *name;      /* NULL: none; the name is printable */
    FlContent content;
} FlPartition;

/* A logical volume, all of which is on this disk. */
typedef struct {
    char *group, *name; /* letters, digits and "+_.-" only */
    char *uuid;         /* printable */
    uint64_t size;      /* bytes */
    GArray *parts;      /* of FlVolumePart */
    FlContent content;
} FlVolume;
void fl_volume_free(FlVolume *volume); /* NULL is fine */

typedef struct FlTable FlTable;

/* Of a disk of SIZE bytes. SECTOR: the least that its server reads, in bytes; 0 if that is not
 * known. */
FlTable *fl_table_new(uint64_t size, uint32_t sector);
void fl_table_free(FlTable *table); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlTable, fl_table_free)

/* The bytes that are wanted next: FL_TABLE_MAX at most, within the disk. False: it is complete. */
#define FL_TABLE_MAX (72u << 10)
bool fl_table_wants(const FlTable *table, uint64_t *offset, size_t *length);
/* These bytes, which stay the caller's. */
void fl_table_feed(FlTable *table, const void *bytes);
/* They cannot be had: goes on without them. False if the table itself is in them. */
bool fl_table_skip(FlTable *table);
/* Nothing more is fed: what is known has to do. False if the table itself is not known yet. */
bool fl_table_stop(FlTable *table);

/* Once it is complete: "gpt", "dos", or NULL if there is none. */
const char *fl_table_kind(const FlTable *table);
const GPtrArray *fl_table_partitions(const FlTable *table); /* of FlPartition, in order of number */
/* What the disk itself is, if it has no table. */
const FlContent *fl_table_content(const FlTable *table);
/* Logical volumes, and what is wrong with those left out; NULL: none. */
const GPtrArray *fl_table_volumes(const FlTable *table);          /* of FlVolume */
const GPtrArray *fl_table_volumes_left_out(const FlTable *table); /* of char * */
/* What is wrong with those left out, for people: "3: reaches past the end of the disk". */
const GPtrArray *fl_table_left_out(const FlTable *table); /* of char * */
