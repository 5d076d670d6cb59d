/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The text format of LVM2 metadata (lvm.conf(5), and "Volume group metadata" as written by
 * vgcfgbackup(8)): sections, and names with a number, a string or a list of these. Length, depth
 * and number of nodes are bounded, since the text comes from a guest. Pure.
 */
#pragma once

#include "util/error.h"

#include <stdint.h>

#define FL_LVM_TEXT_MAX (1u << 20)

typedef struct FlLvmNode FlLvmNode;
struct FlLvmNode {
    char *name;
    GPtrArray *children; /* of FlLvmNode, for a section; else NULL */
    GPtrArray *values;   /* of char *, numbers as text; NULL for a section */
};

/* Parses TEXT; returns a node that contains the top-level sections and values. */
FlLvmNode *fl_lvm_text_parse(const char *text, gsize length, GError **error);
void fl_lvm_node_free(FlLvmNode *node); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlLvmNode, fl_lvm_node_free)

/* The member of SECTION with that name and kind; NULL if there is none. SECTION may be NULL. */
const FlLvmNode *fl_lvm_section(const FlLvmNode *section, const char *name);
const char *fl_lvm_string(const FlLvmNode *section, const char *name);
/* False if there is none, or it is greater than MOST. */
bool fl_lvm_number(const FlLvmNode *section, const char *name, uint64_t most, uint64_t *number);
/* Whether the list contains VALUE. */
bool fl_lvm_list_has(const FlLvmNode *section, const char *name, const char *value);
