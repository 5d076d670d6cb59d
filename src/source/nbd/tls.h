/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* TLS: whether a server's certificate will be verified, and what that takes. Private to
 * source/nbd/. */
#pragma once

#include "util/error.h"
#include "util/sandbox.h"

#include <libnbd.h>

/*
 * False with an error if a file that URI names for TLS is not there or not what it should be; and,
 * with one that names the way out, if URI asks for TLS with certificates and NBD would not verify
 * them: libnbd before 1.18.5 and 1.20.3 does so only where the server has a host name
 * and the authority is in a folder of its own (CVE-2024-7383, libnbd-security(3)).
 */
bool fl_tls_check(struct nbd_handle *nbd, const char *uri, GError **error);

/* Allows the keys and certificates of URI, if it asks for TLS. */
void fl_tls_allow(FlSandbox *sandbox, const char *uri);
