/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A hypervisor on another host. With ssh, the sockets of libvirt and of the NBD server are
 * forwarded (util/ssh.h), and scripts on that host handle files. server.c has the same operations
 * for local files. With TLS or TCP only libvirt can be reached: pool.c uses its API instead of
 * scripts.
 *
 * Threads: as for a session.
 */
#pragma once

#include "util/error.h"
#include "util/sandbox.h"

#include <stdint.h>
#include <time.h>

typedef struct FlRemote FlRemote;

/* Whether the libvirt URI names another host; NULL does not. Pure. */
bool fl_remote_is(const char *uri);
/* Connects to the host of URI. SECONDS is the timeout of every operation there. */
FlRemote *fl_remote_open(const char *uri, unsigned seconds, GError **error);
/* Whether the host is reached with ssh, which the functions below that act on that host require. */
bool fl_remote_has_ssh(const FlRemote *remote);
/* As in the URI. */
const char *fl_remote_host(const FlRemote *remote);
void fl_remote_free(FlRemote *remote); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlRemote, fl_remote_free)

/* The URI to use on this host for the remote libvirt. */
const char *fl_remote_libvirt(const FlRemote *remote);
/* Allows what libvirt and the storage daemon need to reconnect. */
void fl_remote_allow(const FlRemote *remote, FlSandbox *sandbox);
/* The last message of ssh; NULL: none. Free with g_free(). */
char *fl_remote_complaint(FlRemote *remote);
/* Why libvirt's socket could not be reached, if ssh reported that; else NULL. Free with g_free().
 */
char *fl_remote_refusal(FlRemote *remote);
/* Whether the path DIRECTORY is acceptable for scratch files. */
bool fl_remote_check_name(const FlRemote *remote, const char *directory, GError **error);
/* Creates DIRECTORY for the process of a VM that runs as USER and GROUP (-1: unknown). */
bool fl_remote_make(FlRemote *remote, const char *directory, gint64 user, gint64 group,
                    GError **error);
/* Removes all files whose path begins with STEM and, if STEM ends in '/', the directory, which must
 * be ours by its name. */
bool fl_remote_remove(FlRemote *remote, const char *stem, GError **error);
/* Makes the NBD server at SOCKET reachable or, if that is NULL, the one at URI, and nothing else
 * from then on. Returns its URI, owned by REMOTE. */
const char *fl_remote_serve(FlRemote *remote, const char *socket, const char *uri, GError **error);
/*
 * Starts a relay there, see session.h, to the NBD server at SOCKET of the backup job whose disks
 * have TOTAL bytes in all, of the VM with UUID. Call before fl_remote_serve(). Returns the relay's
 * socket on this host, owned by REMOTE, or NULL if that host has no Python 3.
 */
const char *fl_remote_relay(FlRemote *remote, const char *socket, const char *uuid, uint64_t total,
                            GError **error);
/* The number of connections to SOCKET from other processes; -1 if unknown. */
int fl_remote_clients(FlRemote *remote, const char *socket);

/* Sets ROOM to the free bytes at PATH. */
bool fl_remote_room(FlRemote *remote, const char *path, uint64_t *room, GError **error);
/* Requests the free space at PATH and the sizes of the files in DIRECTORY without waiting, unless a
 * request is pending. Returns true if an answer arrived since the last call. */
bool fl_remote_look(FlRemote *remote, const char *path, const char *directory);
/* As of the last answer: the free bytes, UINT64_MAX before the first answer; and the bytes of FILE.
 */
uint64_t fl_remote_free_room(const FlRemote *remote);
uint64_t fl_remote_used(const FlRemote *remote, const char *file);
/* Set these values from another source. */
void fl_remote_note_room(FlRemote *remote, uint64_t room);
void fl_remote_note_used(FlRemote *remote, const char *file, uint64_t used);

/*
 * A storage daemon on that host, for the images of a VM that is shut off: FOLDER, which it creates
 * and removes, has the sockets of its monitor and NBD server. It ends with the ssh connection. If
 * the connection breaks without that host noticing, it ends two minutes after the last call of
 * keep.
 */
/* Starts it, or starts another one. Makes both sockets reachable and, from then on, nothing else.
 * Returns the socket of the monitor on this host, owned by REMOTE. */
const char *fl_remote_daemon_start(FlRemote *remote, const char *folder, GError **error);
/* Lets clients connect to its NBD server. */
bool fl_remote_daemon_ready(FlRemote *remote, const char *folder, GError **error);
/* The URI of that server, owned by REMOTE. */
const char *fl_remote_daemon_uri(const FlRemote *remote);
/* Lets it run on, and sets KEPT to whether it does. Returns what FlRemoteFile.identity would now be
 * for each of PATHS (of char *); free with g_strfreev(). */
char **fl_remote_daemon_keep(FlRemote *remote, const char *folder, const GPtrArray *paths,
                             bool *kept, GError **error);
/* Ends it, and waits for the folder's removal. False if it may still run. */
bool fl_remote_daemon_end(FlRemote *remote, const char *folder);

/* A file or block device there. */
typedef struct {
    char *identity; /* changes if another file is there, or if it may have been written to */
    bool device;
    uint64_t size;                /* bytes; 0 for a device */
    struct timespec mtime, ctime; /* 0 for a device */
} FlRemoteFile;

/* Sets FILE to what PATH is there; fails for anything else. Free the identity with g_free(). */
bool fl_remote_file(FlRemote *remote, const char *path, FlRemoteFile *file, GError **error);

/* The identity of an image file. */
#define FL_FACTS_HEADER 4096
typedef struct {
    char *what;    /* the identity: "file INODE BIRTH", "volume UUID", "path PATH" */
    size_t length; /* bytes of the header that could be read */
    unsigned char header[FL_FACTS_HEADER];
} FlFacts;

/* Gets the facts of the image at PATH on the remote host; without ssh, only its path. Omits what
 * cannot be determined. Free facts->what with g_free(). */
void fl_remote_facts(FlRemote *remote, const char *path, FlFacts *facts);
/* The same for an image on this host. */
void fl_local_facts(const char *path, FlFacts *facts);
/* Formats facts->what for a file with INODE, created at SECOND and NANOSECOND. */
char *fl_facts_file(uint64_t inode, gint64 second, unsigned nanosecond);
