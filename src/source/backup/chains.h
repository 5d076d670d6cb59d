/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Chains of stored images, served by one qemu-storage-daemon. Private to source/backup/.
 *
 * Each image is a node of the daemon's, on the node of what it lies on, so that generations share
 * what they have in common. Nodes are given explicitly, whatever the files themselves say of what
 * they are based on. An image is opened when somebody first asks for it, and checked before that
 * (stored/files.h); an increment in raw gets tables of its own, in a file that is gone when it has
 * been opened. The daemon is in a jail with the folder that everything lies in.
 *
 * Made by a thread that lives as long as the mount; fl_chains_open() is for any thread.
 */
#pragma once

#include "source/server.h"
#include "stored/stored.h"

/* Images on one another. */
#define FL_CHAINS_DEPTH_MAX 200u

typedef struct FlChains FlChains;

/* For the images (of const FlStoredImage *) and what they lie on, all of STORED, which outlives it.
 */
FlChains *fl_chains_new(const FlStored *stored, const GPtrArray *images, GError **error);
void fl_chains_free(FlChains *chains); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlChains, fl_chains_free)

FlServer *fl_chains_server(const FlChains *chains);
void fl_chains_allow(const FlChains *chains, FlSandbox *sandbox);

/* Whether it can be opened at all: not if it is in pieces, or too many images lie on one another.
 */
bool fl_chains_can_open(const FlStoredImage *image, GError **error);
/* Serves IMAGE as the export NAME from now on, if it does not yet. */
bool fl_chains_open(FlChains *chains, const FlStoredImage *image, const char *name, GError **error);
