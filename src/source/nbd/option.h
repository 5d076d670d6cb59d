/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is asked of a server before an export is chosen. Private to source/nbd/. Blocks; see FlWait.
 */
#pragma once

#include "wait.h"

/* What a server may list of either. */
#define FL_EXPORTS_MAX  20000u
#define FL_CONTEXTS_MAX 1000u

/* Enters the export that NBD names. */
bool fl_option_go(struct nbd_handle *nbd, const FlWait *wait, GError **error);
/* Asks for it without entering it. False without an error where the server cannot be asked. */
bool fl_option_info(struct nbd_handle *nbd, const FlWait *wait, GError **error);
/* The names of the exports, and of the meta contexts of the one that NBD names (char *), where the
 * server lists any: else *NAMES stays as it is. False with an error if they are too many: to leave
 * out some would be worse. */
bool fl_option_exports(struct nbd_handle *nbd, const FlWait *wait, GPtrArray **names,
                       GError **error);
bool fl_option_contexts(struct nbd_handle *nbd, const FlWait *wait, GPtrArray **names,
                        GError **error);
