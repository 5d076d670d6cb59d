/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What libblkid says of a few bytes. Private to disk/. */
#pragma once

#include "disk/table.h"

/* The caller frees the strings. */
typedef struct {
    FlPartition partition; /* start is relative to where the table is */
    bool extended;         /* holds logical partitions */
} FlTableEntry;

/* Whether there is a libblkid. */
bool fl_probe_is_there(void);

/*
 * What table there is in LENGTH bytes, the beginning of SIZE: "gpt", "dos", or NULL. LINK: of the
 * chain of logical partitions, which can only be an MBR. Adds its FlTableEntry to ENTRIES, those of
 * the table itself and not of tables within; and sets *ID, to be freed with g_free(), which may be
 * NULL.
 */
const char *fl_probe_table(const void *bytes, size_t length, uint64_t size, uint32_t sector,
                           bool link, GArray *entries, char **id);

/* What LENGTH bytes, the beginning of SIZE, are the beginning of: fills in CONTENT. */
void fl_probe_content(const void *bytes, size_t length, uint64_t size, FlContent *content);
