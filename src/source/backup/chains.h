/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Chains of stored images, served by one qemu-storage-daemon. Private to source/backup/.
 *
 * Each image is a node in the daemon, on top of the node of the image it is based on, so
 * generations share their common images. Nodes are specified explicitly: backing files named in the
 * images are ignored. An image is opened on first use, and checked before that (stored/files.h). A
 * raw increment gets its own tables, in a file that is unlinked once it is open. The daemon runs in
 * a jail that contains the folder of all images.
 *
 * Create it from a thread that lives as long as the mount; fl_chains_hold() and fl_chains_let_go()
 * may be called from any thread.
 */
#pragma once

#include "source/server.h"
#include "stored/stored.h"

/* Maximum length of a chain of images. */
#define FL_CHAINS_DEPTH_MAX 200u
/* Maximum number of open exports, unless more of them have clients. */
#define FL_CHAINS_OPEN_MAX 32u

typedef struct FlChains FlChains;

/* Serves IMAGES (of const FlStoredImage *) and the images below them, all of STORED, which must
 * outlive it. */
FlChains *fl_chains_new(const FlStored *stored, const GPtrArray *images, GError **error);
void fl_chains_free(FlChains *chains); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlChains, fl_chains_free)

FlServer *fl_chains_server(const FlChains *chains);
/* Why what was read of IMAGE may be wrong: a file of its chain was truncated. NULL if not; free
 * with g_free(). Does not block. */
char *fl_chains_fault(const FlChains *chains, const FlStoredImage *image);
void fl_chains_allow(const FlChains *chains, FlSandbox *sandbox);

/* Whether IMAGE can be opened: not if it is in pieces or its chain is too long. */
bool fl_chains_can_open(const FlStoredImage *image, GError **error);
/*
 * Serves IMAGE as the export NAME, at least until fl_chains_let_go() and while it has clients.
 * Beyond FL_CHAINS_OPEN_MAX exports, the least recently used ones are closed, with the nodes that
 * only they use.
 */
bool fl_chains_hold(FlChains *chains, const FlStoredImage *image, const char *name, GError **error);
void fl_chains_let_go(FlChains *chains, const char *name);
