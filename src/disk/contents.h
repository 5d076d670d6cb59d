/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is in the partitions of a disk: file systems and the like, by libblkid, and LVM2's logical
 * volumes. A machine without I/O, as FlTable, which it is a part of.
 */
#pragma once

#include "disk/table.h"

typedef struct FlContents FlContents;

FlContents *fl_contents_new(void);
void fl_contents_free(FlContents *contents); /* NULL is fine */
/* To be looked into before anything is wanted: [START, START + LENGTH) of the disk, whose content
 * is filled in to INTO. No more than a few are. */
void fl_contents_add(FlContents *contents, uint64_t start, uint64_t length, FlContent *into);
/* The disk itself, of SIZE bytes, of which LENGTH are known. */
void fl_contents_add_disk(FlContents *contents, const void *bytes, size_t length, uint64_t size,
                          FlContent *into);

/* As fl_table_wants() and fl_table_feed(). */
bool fl_contents_wants(const FlContents *contents, uint64_t *offset, size_t *length);
void fl_contents_feed(FlContents *contents, const void *bytes);
/* They cannot be had: goes on without them. */
void fl_contents_skip(FlContents *contents);
/* Wants no more. */
void fl_contents_stop(FlContents *contents);

/* Once nothing is wanted any more; of FlVolume and char *. */
const GPtrArray *fl_contents_volumes(const FlContents *contents);
const GPtrArray *fl_contents_left_out(const FlContents *contents);
