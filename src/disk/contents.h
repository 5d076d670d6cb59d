/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The contents of a disk's partitions: file systems and the like, found by libblkid, and logical
 * volumes of LVM2. A state machine without I/O, like FlTable, which contains it.
 */
#pragma once

#include "disk/table.h"

typedef struct FlContents FlContents;

FlContents *fl_contents_new(void);
void fl_contents_free(FlContents *contents); /* NULL is fine */
/* Adds [START, START + LENGTH) of the disk to the regions to probe; the result goes to INTO. Call
 * before fl_contents_wants(). Regions beyond a small limit are ignored. */
void fl_contents_add(FlContents *contents, uint64_t start, uint64_t length, FlContent *into);
/* Probes the disk itself, of SIZE bytes; BYTES are its first LENGTH bytes. */
void fl_contents_add_disk(FlContents *contents, const void *bytes, size_t length, uint64_t size,
                          FlContent *into);

/* As fl_table_wants() and fl_table_feed(). */
bool fl_contents_wants(const FlContents *contents, uint64_t *offset, size_t *length);
void fl_contents_feed(FlContents *contents, const void *bytes);
/* The requested range cannot be read: continues without it. */
void fl_contents_skip(FlContents *contents);
/* Stops early. */
void fl_contents_stop(FlContents *contents);

/* Valid once fl_contents_wants() returns false; of FlVolume and of char *. */
const GPtrArray *fl_contents_volumes(const FlContents *contents);
const GPtrArray *fl_contents_left_out(const FlContents *contents);
