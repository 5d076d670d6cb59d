/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Commands to the daemon of a mount, by ioctl(2) on its .fleecefs/status.json.
 *
 * An ioctl needs no socket that could be left behind or be open to others: whoever may read the
 * tree reaches the daemon, and only who mounted it (or root) may command it.
 */
#pragma once

#include "util/error.h"

#include <stdint.h>
#include <sys/ioctl.h>

#define FL_CONTROL_TEXT_MAX 4000

typedef struct {
    uint32_t force;                 /* in: commit although not everything was read */
    int32_t status;                 /* out: an exit status */
    char text[FL_CONTROL_TEXT_MAX]; /* out: the error's message; "" if there is none */
} FlControlMessage;

#define FL_CONTROL_COMMIT _IOWR('F', 0x46, FlControlMessage)
#define FL_CONTROL_ABORT  _IOWR('F', 0x47, FlControlMessage)

/* A command that waits for its reply. */
typedef struct FlControlCall FlControlCall;

/* Replies with an exit status and a message (NULL: none), and frees CALL. From the loop. */
void fl_control_reply(FlControlCall *call, int status, const char *text);

/* Who carries out the commands. RUN is called from the loop and replies now or later. */
typedef struct {
    void (*run)(FlControlCall *call, bool commit, bool force, void *opaque);
    void *opaque;
} FlControl;
