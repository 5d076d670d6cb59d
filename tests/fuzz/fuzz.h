/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Fuzzers: each feeds untrusted bytes to one parser, and aborts if an invariant is violated.
 *
 * With -Dfuzz=true they are built as libFuzzer programs (https://llvm.org/docs/LibFuzzer.html).
 * They are always built as plain regression programs, which run the inputs of their corpus, named
 * after what they once broke, and random variations of them.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
