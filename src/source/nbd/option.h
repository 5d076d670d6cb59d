/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Options sent to a server before an export is chosen. Private to source/nbd/. Blocks; see
 * FlWait. */
#pragma once

#include "wait.h"

/* Maximum numbers that a server may list. */
#define FL_EXPORTS_MAX  20000u
#define FL_CONTEXTS_MAX 1000u

/* Enters the export selected in NBD. */
bool fl_option_go(struct nbd_handle *nbd, const FlWait *wait, GError **error);
/* Queries it without entering. Returns false without an error if the server does not support
 * that. */
bool fl_option_info(struct nbd_handle *nbd, const FlWait *wait, GError **error);
/* Store the names (char *) of the exports, or of the meta contexts of the export selected in NBD,
 * if the server can list them; otherwise *NAMES is unchanged. Return false with an error if there
 * are too many: a partial list would be worse. */
bool fl_option_exports(struct nbd_handle *nbd, const FlWait *wait, GPtrArray **names,
                       GError **error);
bool fl_option_contexts(struct nbd_handle *nbd, const FlWait *wait, GPtrArray **names,
                        GError **error);
