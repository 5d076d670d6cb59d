/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Fuzzers: each feeds foreign bytes to one parser, and aborts where an invariant does not hold.
 *
 * Built with -Dfuzz=true they are libFuzzer programs (https://llvm.org/docs/LibFuzzer.html). Always
 * they are also plain regression programs, which run the inputs of their corpus, named after what
 * they once broke, and random variations of those.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
