/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * NBD servers that we start ourselves: the command in [ brackets ], and the storage daemon that
 * serves an image file.
 *
 * The server gets a listening Unix socket as descriptor 3. The socket's name is removed as soon as
 * it listens; it is reached through a descriptor of ours, so that nobody else can connect and
 * nothing is left behind, however we end. The kernel ends the server when the thread that started
 * it has gone (PR_SET_PDEATHSIG), so this must be a thread that lives as long as the mount.
 */
#pragma once

#include "util/error.h"
#include "util/sandbox.h"

#include <stdint.h>
#include <time.h>

typedef struct FlServer FlServer;

/* A dirty bitmap of an image. */
typedef struct {
    char *name;
    uint64_t granularity; /* bytes; 0 if not known */
    uint64_t count;       /* bytes that are dirty in the image itself, whole granules */
    bool inconsistent;    /* was in use when its writer died: not served */
    bool torn;            /* parts of it are in images of different sizes: not served */
    const char *node;     /* private to the image: where all parts are merged; NULL: there are none
                             but the image's own */
} FlBitmapInfo;

static inline bool fl_bitmap_info_is_whole(const FlBitmapInfo *bitmap)
{
    return !bitmap->inconsistent && !bitmap->torn;
}

/* What is known of an image beyond what NBD tells. */
typedef struct {
    char *name;         /* of the export: the file's name without its last extension */
    char *format;       /* as QEMU calls it: "qcow2", "raw" */
    GPtrArray *bitmaps; /* of FlBitmapInfo, sorted by name */
    struct timespec mtime, ctime;
} FlImageInfo;

/*
 * Runs ARGV (NULL-terminated) by systemd socket activation: LISTEN_FDS=1, LISTEN_PID. It accepts
 * connections when it likes, so whether it could start shows when the first connection is tried:
 * see fl_server_check().
 */
FlServer *fl_server_new_command(const char *const *argv, GError **error);

/*
 * Serves the image at PATH read-only, all its consistent bitmaps and its backing chain included, as
 * one export named info->name, by an embedded qemu-storage-daemon; it answers when this returns.
 *
 * FORMAT is QEMU's name of the image's format; NULL has it found by the contents. A guest writes
 * the contents of its raw disk, and could make it look like a qcow2 whose backing file is any file
 * of the host: name the format of raw disks whose guests are not trusted.
 *
 * The image is never changed. While it is served no QEMU can open it, or what it is based on, for
 * writing. Errors name the way out: an image that a running VM holds, one that is not there, a
 * backing file that is missing.
 */
FlServer *fl_server_new_image(const char *path, const char *format, GError **error);

/* Ends the server and all its children, and waits for it, some seconds at most. NULL is fine. */
void fl_server_free(FlServer *server);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlServer, fl_server_free)

/* An O_PATH descriptor of the listening socket: connect(2) to /proc/self/fd/N. Belongs to SERVER.
 */
int fl_server_socket(const FlServer *server);
/* The server's process id. */
int fl_server_pid(const FlServer *server);
/* Allows what ending the server takes, and notes if its own sandbox is not closed. */
void fl_server_allow(const FlServer *server, FlSandbox *sandbox);
/* NULL for a command. Belongs to SERVER. */
const FlImageInfo *fl_server_image(const FlServer *server);

/*
 * To be asked when a connection failed: false, with how the server ended and what it complained of,
 * if it has ended, or does so within half a second.
 */
bool fl_server_check(FlServer *server, GError **error);
