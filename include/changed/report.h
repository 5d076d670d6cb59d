/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How changed files are shown. */
#pragma once

#include "changed/list.h"

typedef enum {
    FL_REPORT_TEXT,  /* "BYTES KIND PATH", for people: names are made harmless */
    FL_REPORT_JSON,  /* an object a line; fleecefs-formats(5), "fleecefs-changed" */
    FL_REPORT_NAMES, /* paths that exist, each ended by NUL: for tar and rsync */
} FlReportFormat;

typedef struct {
    FlReportFormat format;
    bool by_size; /* the largest first */
    bool summary; /* sums of folders, down to DEPTH, instead of files */
    unsigned depth;
    bool human;     /* sizes as 1.5G */
    unsigned kinds; /* of 1 << FlChangedHow: which to show */
    bool several;   /* parts are listed: each path is shown with its own */
    const FlPart *part;
} FlReport;

/* Adds NAMES, of FlChangedName, to OUT. */
void fl_report(const FlReport *report, const GPtrArray *names, GString *out);
