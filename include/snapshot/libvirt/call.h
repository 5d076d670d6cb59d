/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Questions to libvirt. libvirtd may hang, or wait for a QEMU that does, and libvirt's functions
 * then wait with it for ever: each runs in a thread of its own, which nobody needs to wait for. A
 * call whose answer did not come belongs to its thread alone, and may still be carried out.
 */
#pragma once

#include <glib.h>
#include <libvirt/libvirt.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct FlLibvirtCall FlLibvirtCall;
struct FlLibvirtCall {
    /* What is asked, in the thread of the call: whether libvirt's function succeeded. May use
     * nothing but the call. */
    bool (*ask)(FlLibvirtCall *call);
    virDomainPtr domain; /* a reference; NULL if the question is for no domain */
    char *text, *more;
    unsigned number;
    unsigned extra; /* milliseconds that the answer may take besides what any may */

    /* The answer, with which ASK is free to do as it likes; and what went wrong. */
    int64_t value;
    uint64_t total; /* bytes */
    char *string;
    GPtrArray *strings;
    virConnectPtr connection;
    int code, from;   /* virErrorNumber, virErrorDomain */
    char *message;    /* one line */
    bool silent;      /* there is no answer: nobody may look at those above */
    bool interrupted; /* silent, because of a signal (util/interrupt.h) */
    bool repeated;    /* it was asked before, and what came of that is not known */

    /* Private to call.c. */
    gatomicrefcount refs;
    GMutex lock;
    GCond cond;
    bool done, ok; /* LOCK */
};

/* TEXT and MORE may be NULL. */
FlLibvirtCall *fl_libvirt_call_new(bool (*ask)(FlLibvirtCall *call), const char *text,
                                   const char *more);
void fl_libvirt_call_unref(FlLibvirtCall *call); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlLibvirtCall, fl_libvirt_call_unref)

/* Asks, and waits for up to TIMEOUT milliseconds, or a signal. False if it failed or is silent. */
bool fl_libvirt_call_run(FlLibvirtCall *call, unsigned timeout);
/* Makes a call that is not silent ready to be asked again. */
void fl_libvirt_call_reset(FlLibvirtCall *call);

/* For ASK: takes over what libvirt allocated; whether it is not NULL. */
bool fl_libvirt_call_take(FlLibvirtCall *call, char *string);
/* For ASK: keeps libvirt's last error, which is the one of this thread, and which any other of
 * libvirt's functions forgets. Not needed for the last of them. */
void fl_libvirt_call_note_error(FlLibvirtCall *call);
