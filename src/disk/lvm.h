/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * LVM2: physical volumes on a disk, and the logical volumes that are made of them (the on-disk
 * format of LVM2's lib/format_text and lib/label). All of it is a guest's: lengths, sums and places
 * are checked. Pure.
 */
#pragma once

#include "disk/table.h"

/* A physical volume of which the label was read. Bytes; offsets are those of the physical volume.
 */
typedef struct {
    uint64_t start, length;            /* on the disk */
    char uuid[33];                     /* without dashes */
    uint64_t area_offset, area_length; /* of its metadata */
    uint64_t text_offset, text_length; /* within the area, round whose end it may go */
    uint32_t text_sum;
} FlLvmPv;

/* What must be read for it. */
#define FL_LVM_LABEL_BYTES  4096u
#define FL_LVM_HEADER_BYTES UINT64_C(512)

/* The sum by which all of it is checked. */
uint32_t fl_lvm_sum(const uint8_t *bytes, size_t length);

/* Finds the label in BYTES, the first LENGTH of [START, START + SIZE) of a disk. */
bool fl_lvm_read_label(FlLvmPv *pv, uint64_t start, uint64_t size, const uint8_t *bytes,
                       size_t length, GError **error);
/* Reads the header of the metadata area, FL_LVM_HEADER_BYTES at area_offset. */
bool fl_lvm_read_header(FlLvmPv *pv, const uint8_t *bytes, GError **error);
/* Where byte INDEX of the text is on the disk, and how many more are in a row from there. */
uint64_t fl_lvm_text_at(const FlLvmPv *pv, uint64_t index, uint64_t *length);

/*
 * The logical volumes in TEXT, the metadata that PV has, as far as they can be put together of PVS
 * (of FlLvmPv): added to VOLUMES (of FlVolume). To LEFT_OUT (of char *) what is wrong with others.
 */
bool fl_lvm_read_text(const FlLvmPv *pv, const GArray *pvs, const char *text, GPtrArray *volumes,
                      GPtrArray *left_out, GError **error);
