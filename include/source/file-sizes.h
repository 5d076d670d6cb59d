/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Detects files that shrank while they are served. QEMU reads beyond the end of a file as zeros.
 * Any thread; its lock is a leaf, held while the kernel's attributes of a file are read. */
#pragma once

#include <glib.h>

typedef struct FlFileSizes FlFileSizes;

FlFileSizes *fl_file_sizes_new(void);
void fl_file_sizes_free(FlFileSizes *sizes); /* NULL is fine */

/* Watches the file at PATH from now on, under KEY, which is only compared. Skips a file that is not
 * regular, which cannot shrink. One that cannot be opened is not watched, with a warning. */
void fl_file_sizes_add(FlFileSizes *sizes, gconstpointer key, const char *path);
/* The same for a file that is open as FD, which stays the caller's; its offset may change. Checks
 * are cheaper than those of a path. */
void fl_file_sizes_add_fd(FlFileSizes *sizes, gconstpointer key, const char *path, int fd);
/* Stops watching the file of KEY. If it has shrunk, it stays so. */
void fl_file_sizes_remove(FlFileSizes *sizes, gconstpointer key);

/* Returns how the file of KEY, or with NULL any, has shrunk, free with g_free(); NULL if it has
 * not. Does not wait for a file server: the kernel's attributes are as fresh as the bytes that QEMU
 * has just read. */
char *fl_file_sizes_fault(FlFileSizes *sizes, gconstpointer key);
