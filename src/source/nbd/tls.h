/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* TLS: whether a server's certificate will be verified, and the files this needs. Private to
 * source/nbd/. */
#pragma once

#include "util/error.h"
#include "util/sandbox.h"

#include <libnbd.h>

/*
 * Returns false with an error if a file that URI names for TLS is missing or invalid. Also fails,
 * with a hint in the error, if URI asks for TLS with certificates and NBD would not verify them:
 * libnbd before 1.18.5 and 1.20.3 verifies only if the server has a host name and the authority is
 * in a separate folder (CVE-2024-7383, libnbd-security(3)).
 */
bool fl_tls_check(struct nbd_handle *nbd, const char *uri, GError **error);

/* Allows the keys and certificates of URI if it uses TLS. */
void fl_tls_allow(FlSandbox *sandbox, const char *uri);
