/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * I/O of libext2fs: reads a part through its descriptor, replacing blocks by newer versions from a
 * journal that was not replayed. Private to changed/.
 */
#pragma once

#include "changed/part.h"

#include <ext2fs/ext2fs.h>

/* Maps block numbers to the blocks that hold their newest version. */
typedef struct FlExtOverlay FlExtOverlay;

FlExtOverlay *fl_ext_overlay_new(uint32_t block_size);
void fl_ext_overlay_free(FlExtOverlay *overlay); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlExtOverlay, fl_ext_overlay_free)

/* Block COPY, in the journal, has the contents of BLOCK. ESCAPED: except for its first four bytes,
 * which are the journal's magic number. */
void fl_ext_overlay_set(FlExtOverlay *overlay, uint64_t block, uint64_t copy, bool escaped);
/* BLOCK has its newest version in its own place. */
void fl_ext_overlay_unset(FlExtOverlay *overlay, uint64_t block);
/* Returns the block to read for BLOCK. */
uint64_t fl_ext_overlay_find(const FlExtOverlay *overlay, uint64_t block);

/* Opens the file system of PART. Close it with ext2fs_close_free() before freeing PART and OVERLAY,
 * which may be NULL. */
errcode_t fl_ext_open(const FlPart *part, const FlExtOverlay *overlay, ext2_filsys *fs);
