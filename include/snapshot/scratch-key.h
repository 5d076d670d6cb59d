/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Encrypted scratch images (-o scratch_encrypt). */
#pragma once

#include "util/error.h"

#include <stdbool.h>
#include <stdint.h>

/* Returns a new random key, as text; NULL with an error. */
char *fl_scratch_key_new(GError **error);
void fl_scratch_key_free(char *key); /* overwrites it; NULL is fine */

/*
 * Formats the file FD, open for reading and writing, as a qcow2 of SIZE bytes that is encrypted
 * with KEY. qemu-img does that, within a minute: benchmarking the key derivation takes a second,
 * during which QEMU would stall the guest. It gets KEY through a descriptor, so no one else sees
 * it.
 */
bool fl_scratch_key_format(int fd, uint64_t size, const char *key, GError **error);
