/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Runs libblkid on a few bytes. Private to disk/. */
#pragma once

#include "disk/table.h"

/* The caller frees the strings. */
typedef struct {
    FlPartition partition; /* start is relative to the table */
    bool extended;         /* holds logical partitions */
} FlTableEntry;

/* Whether libblkid is available. */
bool fl_probe_is_there(void);

/*
 * Detects the table in BYTES, the first LENGTH bytes of SIZE: "gpt", "dos", or NULL. LINK: BYTES
 * are a link in the chain of logical partitions, which can only be an MBR. Appends the FlTableEntry
 * of the table itself, not of nested tables, to ENTRIES. Sets *ID, which may be NULL; free with
 * g_free().
 */
const char *fl_probe_table(const void *bytes, size_t length, uint64_t size, uint32_t sector,
                           bool link, GArray *entries, char **id);

/* Detects the contents from BYTES, the first LENGTH bytes of SIZE, and fills in CONTENT. */
void fl_probe_content(const void *bytes, size_t length, uint64_t size, FlContent *content);
