/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Detects files that are written to while they are served: QEMU reads beyond the end of a file as
 * zeros, and a file that was truncated may have grown again since. A write is known by the file's
 * size or modification time. Any thread; its lock is a leaf, held while the kernel's attributes of
 * a file are read. */
#pragma once

#include <glib.h>
#include <stdbool.h>

typedef struct FlFileSizes FlFileSizes;

FlFileSizes *fl_file_sizes_new(void);
void fl_file_sizes_free(FlFileSizes *sizes); /* NULL is fine */

/* Watches the file at PATH from now on, under KEY, which is only compared. Skips a file that is not
 * regular, which has no size. One that cannot be opened is not watched, with a warning. */
void fl_file_sizes_add(FlFileSizes *sizes, gconstpointer key, const char *path);
/* The same for a file that is open as FD, which stays the caller's. */
void fl_file_sizes_add_fd(FlFileSizes *sizes, gconstpointer key, const char *path, int fd);
/* Whether PATH still leads to the file of KEY, or none is watched. After another program has opened
 * PATH, this tells whether it has the file that is watched. */
bool fl_file_sizes_is_at(FlFileSizes *sizes, gconstpointer key, const char *path);
/* Stops watching the file of KEY. If it has changed, it stays so. */
void fl_file_sizes_remove(FlFileSizes *sizes, gconstpointer key);

/* Returns how the file of KEY, or with NULL any, has changed, free with g_free(); NULL if it has
 * not. Does not wait for a file server: the kernel's attributes are as fresh as the bytes that QEMU
 * has just read. */
char *fl_file_sizes_fault(FlFileSizes *sizes, gconstpointer key);
