/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The hypervisor, where it is another host that is reached by ssh: libvirt's socket and that of the
 * NBD server are forwarded (util/ssh.h), and what has to be done with files is done by scripts
 * there. Everything that is only files here is also a function without a remote: see job.c.
 *
 * Threads: as a session's.
 */
#pragma once

#include "util/error.h"

#include <stdint.h>

typedef struct FlRemote FlRemote;

/* Whether URI, of libvirt, names another host; NULL does not. Pure. */
bool fl_remote_is(const char *uri);
/* Connects to the host of URI. SECONDS: for all that is asked there. */
FlRemote *fl_remote_open(const char *uri, unsigned seconds, GError **error);
void fl_remote_free(FlRemote *remote); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlRemote, fl_remote_free)

/* The URI by which the libvirt there is reached here. */
const char *fl_remote_libvirt(const FlRemote *remote);
/* What went wrong when something connected through it; NULL: nothing. To be freed with g_free(). */
char *fl_remote_complaint(FlRemote *remote);
/* Whether the NBD server's socket may be in DIRECTORY, as far as its name goes. */
bool fl_remote_check_name(const char *directory, GError **error);
/* Makes DIRECTORY, for the process of a VM that runs as USER and GROUP (-1: not known). */
bool fl_remote_make(FlRemote *remote, const char *directory, gint64 user, gint64 group,
                    GError **error);
/* Removes DIRECTORY, which is one of ours by its name, with the files in it. */
bool fl_remote_remove(FlRemote *remote, const char *directory, GError **error);
/* Makes the NBD server's SOCKET reachable; the last of those that are. The URI belongs to REMOTE.
 */
const char *fl_remote_serve(FlRemote *remote, const char *socket, GError **error);
/* How many connections to SOCKET there are of others than this process; -1 if it cannot be told. */
int fl_remote_clients(FlRemote *remote, const char *socket);

/* Bytes that are free at PATH. */
bool fl_remote_room(FlRemote *remote, const char *path, uint64_t *room, GError **error);
/* Asks for that, and for the sizes of the files in DIRECTORY, without waiting, unless it has been
 * asked for already. True if an answer has come since the last look. */
bool fl_remote_look(FlRemote *remote, const char *path, const char *directory);
/* As of the last answer: bytes that are free; UINT64_MAX before there is one. Bytes of FILE. */
uint64_t fl_remote_free_room(const FlRemote *remote);
uint64_t fl_remote_used(const FlRemote *remote, const char *file);

/* What file an image is. */
#define FL_FACTS_HEADER 4096
typedef struct {
    char *what;    /* by which it is known: "file INODE BIRTH", "volume UUID", "path PATH" */
    size_t length; /* bytes of the header that could be read */
    unsigned char header[FL_FACTS_HEADER];
} FlFacts;

/* Of the image at PATH there. What cannot be seen is left out; to be freed with g_free() is what.
 */
void fl_remote_facts(FlRemote *remote, const char *path, FlFacts *facts);
/* The same here. */
void fl_local_facts(const char *path, FlFacts *facts);
/* Facts->what, of a file with INODE that was made at SECOND and NANOSECOND. */
char *fl_facts_file(uint64_t inode, gint64 second, unsigned nanosecond);
