/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Output of changed files. */
#pragma once

#include "changed/list.h"

typedef enum {
    FL_REPORT_TEXT,  /* "BYTES KIND PATH", for people: names are made printable */
    FL_REPORT_JSON,  /* an object per line; fleecefs-formats(5), "fleecefs-changed" */
    FL_REPORT_NAMES, /* paths that exist, NUL-terminated: for tar and rsync */
} FlReportFormat;

typedef struct {
    FlReportFormat format;
    bool by_size; /* sort by size, largest first */
    bool summary; /* totals of folders, down to DEPTH, instead of files */
    unsigned depth;
    bool human;     /* sizes as 1.5G */
    unsigned kinds; /* mask of 1 << FlChangedHow: which to show */
    bool several;   /* several parts are listed: print each path with its part */
    const FlPart *part;
} FlReport;

/* Appends NAMES, of FlChangedName, to OUT. */
void fl_report(const FlReport *report, const GPtrArray *names, GString *out);
