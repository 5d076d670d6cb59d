/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Worker threads for blocking calls, kept for the life of a mount.
 *
 * GLib's own pools abort the program when a thread cannot be created. Here the first thread is
 * created before anything is mounted; others, up to a limit, when there are more jobs than idle
 * threads. If a thread cannot be created or the limit is reached, jobs wait for the existing
 * threads.
 */
#pragma once

#include "util/error.h"

typedef struct FlWorkers FlWorkers;

/* Fails if not even one thread can be created. A thread inherits the signal mask of its creator. */
FlWorkers *fl_workers_new(GError **error);
FlWorkers *fl_workers_ref(FlWorkers *workers);
/* The threads exit after the last reference is dropped; jobs still running continue as long as the
 * program does. NULL is fine. */
void fl_workers_unref(FlWorkers *workers);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlWorkers, fl_workers_unref)

/* Calls RUN(JOB) in a worker thread, then DONE(JOB) in the loop. Call in the loop. */
void fl_workers_push(FlWorkers *workers, void (*run)(void *job), void (*done)(void *job),
                     void *job);
