/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Errors.
 *
 * Set-up and control report a GError in the domain FL_ERROR. Its message is one line: what failed,
 * on which source, why, and what to do. The read path reports 0 or -errno (errint_t).
 */
#pragma once

#include <glib.h>
#include <stdbool.h>

/* 0 on success, a negative errno on failure. */
typedef int errint_t;

#define FL_ERROR fl_error_quark()
GQuark fl_error_quark(void);

/* Codes up to FL_ERROR_LEFT are exit statuses. The others tell the caller how to react; as exit
 * status they count as FL_ERROR_FAILED. */
typedef enum {
    FL_ERROR_FAILED = 1, /* the operation failed */
    FL_ERROR_USAGE = 2,  /* wrong usage */
    FL_ERROR_LEFT = 3,   /* done, but something was lost or left behind */
    FL_ERROR_LOST,       /* server unreachable: retry */
    FL_ERROR_CHANGED,    /* the export is no longer the same: do not retry */
} FlErrorCode;

/* What to do if there are too many processes or threads: the end of a message. */
#define FL_LIMITS " (limits: ulimit -u, TasksMax= of the service, pids.max of the container)"

/* Sets a FL_ERROR_FAILED error and returns false, so that callers can `return fl_fail(...)`. */
bool fl_fail(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* The same with FL_ERROR_USAGE. */
bool fl_fail_usage(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* The same with FL_ERROR_LOST. */
bool fl_fail_lost(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* The same with FL_ERROR_CHANGED. */
bool fl_fail_changed(GError **error, const char *format, ...) G_GNUC_PRINTF(2, 3);

/* The exit status for an error; 1 for domains other than FL_ERROR. */
int fl_error_exit_status(const GError *error);
