/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A connection to a folder of pieces: a thread that reads. Private to source/pieces/. */
#pragma once

#include "folder.h"
#include "source/conn.h"

FlConn *fl_pieces_conn_new(FlPieceFolder *folder);
