/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * LVM2: physical volumes on a disk, and the logical volumes on them (on-disk format: LVM2's
 * lib/format_text and lib/label). All input comes from a guest: lengths, checksums and positions
 * are checked. Pure.
 */
#pragma once

#include "disk/table.h"

/* A physical volume whose label was read. In bytes; offsets are relative to the physical volume. */
typedef struct {
    uint64_t start, length;            /* on the disk */
    char uuid[33];                     /* without dashes */
    uint64_t area_offset, area_length; /* of its metadata */
    uint64_t text_offset, text_length; /* within the area; may wrap around its end */
    uint32_t text_sum;
} FlLvmPv;

/* Number of bytes to read for the label and for the header of the metadata area. */
#define FL_LVM_LABEL_BYTES  4096u
#define FL_LVM_HEADER_BYTES UINT64_C(512)

/* The checksum that LVM2 uses throughout. */
uint32_t fl_lvm_sum(const uint8_t *bytes, size_t length);

/* Finds the label in BYTES, the first LENGTH of [START, START + SIZE) of a disk. */
bool fl_lvm_read_label(FlLvmPv *pv, uint64_t start, uint64_t size, const uint8_t *bytes,
                       size_t length, GError **error);
/* Reads the header of the metadata area, FL_LVM_HEADER_BYTES at area_offset. */
bool fl_lvm_read_header(FlLvmPv *pv, const uint8_t *bytes, GError **error);
/* The disk offset of byte INDEX of the text; *LENGTH is the number of contiguous bytes from there.
 */
uint64_t fl_lvm_text_at(const FlLvmPv *pv, uint64_t index, uint64_t *length);

/*
 * Parses TEXT, the metadata of PV. Adds the logical volumes that can be assembled from PVS (of
 * FlLvmPv) to VOLUMES (of FlVolume), and messages about the others to LEFT_OUT (of char *).
 */
bool fl_lvm_read_text(const FlLvmPv *pv, const GArray *pvs, const char *text, GPtrArray *volumes,
                      GPtrArray *left_out, GError **error);
