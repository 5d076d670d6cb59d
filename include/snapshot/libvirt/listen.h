/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The address of the NBD server of a VM on another host, when it is reached with TLS (-o nbd_tls=)
 * instead of a forwarded socket.
 */
#pragma once

#include "snapshot/snapshot.h"

typedef struct {
    char *certificates;   /* folder, absolute; NULL: no TLS */
    char *address;        /* that the server binds to; NULL: the one used to reach it */
    unsigned first, last; /* ports */
    unsigned tried;       /* number of ports tried for this snapshot */
    unsigned port;        /* 0 before fl_listen_next() */
} FlListen;

/* Whether VALUE is valid for -o nbd_listen=. Pure. */
bool fl_listen_check(const char *value, GError **error);
/* Initializes LISTEN from OPTIONS. Fails if the certificates are missing. */
bool fl_listen_init(FlListen *listen, const FlSnapshotOptions *options, GError **error);
void fl_listen_clear(FlListen *listen);

/* Chooses another port; returns false if all have been tried. */
bool fl_listen_next(FlListen *listen);
/* The address in LISTEN, else the first one that HOST resolves to on this host, in numeric form.
 * Free with g_free(). May block in name resolution. */
char *fl_listen_address(const FlListen *listen, const char *host, GError **error);
/* The URI of the server on HOST. Free with g_free(). */
char *fl_listen_uri(const FlListen *listen, const char *host);
