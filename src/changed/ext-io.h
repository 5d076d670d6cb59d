/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How libext2fs reads a part: through its descriptor, and with blocks of a journal that was not
 * replayed in place of those that they are to replace. Private to changed/.
 */
#pragma once

#include "changed/part.h"

#include <ext2fs/ext2fs.h>

/* Where blocks have their newest version: by number. */
typedef struct FlExtOverlay FlExtOverlay;

FlExtOverlay *fl_ext_overlay_new(uint32_t block_size);
void fl_ext_overlay_free(FlExtOverlay *overlay); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlExtOverlay, fl_ext_overlay_free)

/* BLOCK is as in block COPY of the journal. ESCAPED: but for its first four bytes, which are the
 * journal's magic number. */
void fl_ext_overlay_set(FlExtOverlay *overlay, uint64_t block, uint64_t copy, bool escaped);
/* BLOCK is what it is in its own place. */
void fl_ext_overlay_unset(FlExtOverlay *overlay, uint64_t block);
/* Where BLOCK is read from. */
uint64_t fl_ext_overlay_find(const FlExtOverlay *overlay, uint64_t block);

/* Opens the file system of VOLUME, to be closed with ext2fs_close_free(), before the two are
 * freed. OVERLAY may be NULL. */
errcode_t fl_ext_open(const FlPart *part, const FlExtOverlay *overlay, ext2_filsys *fs);
