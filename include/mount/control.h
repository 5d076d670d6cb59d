/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Commands to the daemon of a mount, by ioctl(2) on its .fleecefs/status.json.
 *
 * An ioctl needs no socket, which could be left behind or be open to others: anyone who may read
 * the tree reaches the daemon, but only root and the user who mounted it may send commands.
 */
#pragma once

#include "util/error.h"

#include <stdint.h>
#include <sys/ioctl.h>

#define FL_CONTROL_TEXT_MAX 4000

typedef struct {
    uint32_t force;                 /* in: commit even if not everything was read */
    int32_t status;                 /* out: an exit status */
    char text[FL_CONTROL_TEXT_MAX]; /* out: the error message, or "" */
} FlControlMessage;

#define FL_CONTROL_COMMIT _IOWR('F', 0x46, FlControlMessage)
#define FL_CONTROL_ABORT  _IOWR('F', 0x47, FlControlMessage)
/* Limit on reads from the sources, in bytes per second; 0: no limit. */
#define FL_CONTROL_RATE _IOW('F', 0x48, uint64_t)

/* A command awaiting its reply. */
typedef struct FlControlCall FlControlCall;

/* Replies with STATUS, an exit status, and TEXT (may be NULL), and frees CALL. Call from the loop.
 */
void fl_control_reply(FlControlCall *call, int status, const char *text);

/* Command handler. RUN is called from the loop and replies now or later. */
typedef struct {
    void (*run)(FlControlCall *call, bool commit, bool force, void *opaque);
    void *opaque;
} FlControl;
