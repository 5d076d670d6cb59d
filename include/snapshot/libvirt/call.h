/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Calls to libvirt, with a timeout. libvirtd may hang, or wait for a QEMU that hangs, and libvirt's
 * functions then block forever. So each call runs in its own thread, which nobody has to join.
 * After a timeout only that thread owns the call, which may still be carried out.
 */
#pragma once

#include <glib.h>
#include <libvirt/libvirt.h>
#include <stdbool.h>
#include <stdint.h>

/* Evidence that the current backup job is ours: see ask_progress() in job.c. Times are those of
 * g_get_monotonic_time(). */
typedef struct {
    gint64 since;       /* when the job was found to be ours; 0: never */
    gint64 first, last; /* bounds of the time at which it began */
} FlLibvirtProof;

typedef struct FlLibvirtCall FlLibvirtCall;
struct FlLibvirtCall {
    /* Calls libvirt, in the call's thread; returns whether that succeeded. May access only the
     * call. */
    bool (*ask)(FlLibvirtCall *call);
    virDomainPtr domain; /* a reference; NULL if the call needs no domain */
    char *text, *more;
    FlLibvirtProof proof;
    unsigned number;
    unsigned extra; /* milliseconds added to the normal timeout */

    /* The result, which ASK may use in any way; and the error. */
    int64_t value;
    uint64_t total;       /* bytes */
    FlLibvirtProof found; /* if the job is ours */
    char *string;
    GPtrArray *strings;
    virConnectPtr connection;
    int code, from;   /* virErrorNumber, virErrorDomain */
    char *message;    /* one line */
    bool silent;      /* no answer: the results above must not be accessed */
    bool interrupted; /* silent because of a signal (util/interrupt.h) */
    bool repeated;    /* it was sent before, with unknown outcome */

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

/* Runs CALL and waits up to TIMEOUT milliseconds, or until a signal. Returns false if it failed or
 * is silent. */
bool fl_libvirt_call_run(FlLibvirtCall *call, unsigned timeout);
/* Prepares a call that is not silent for another run. */
void fl_libvirt_call_reset(FlLibvirtCall *call);

/* For ASK: stores STRING, allocated by libvirt, in the call and takes ownership of it. Returns
 * whether it is not NULL. */
bool fl_libvirt_call_take(FlLibvirtCall *call, char *string);
/* For ASK: saves libvirt's last error of this thread, which the next libvirt call resets. Not
 * needed after the last one. */
void fl_libvirt_call_note_error(FlLibvirtCall *call);
