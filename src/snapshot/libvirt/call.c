/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "snapshot/libvirt/call.h"

#include "util/interrupt.h"

#include <libvirt/virterror.h>
#include <stdlib.h>
#include <string.h>

FlLibvirtCall *fl_libvirt_call_new(bool (*ask)(FlLibvirtCall *call), const char *text,
                                   const char *more)
{
    FlLibvirtCall *call = g_new0(FlLibvirtCall, 1);

    call->ask = ask;
    call->text = g_strdup(text);
    call->more = g_strdup(more);
    g_atomic_ref_count_init(&call->refs);
    g_mutex_init(&call->lock);
    g_cond_init(&call->cond);
    return call;
}

void fl_libvirt_call_reset(FlLibvirtCall *call)
{
    if (call->domain != NULL)
        virDomainFree(call->domain);
    if (call->connection != NULL)
        virConnectClose(call->connection);
    call->domain = NULL;
    call->connection = NULL;
    call->value = 0;
    call->found = (FlLibvirtProof){0};
    g_clear_pointer(&call->string, g_free);
    g_clear_pointer(&call->strings, g_ptr_array_unref);
    call->code = call->from = 0;
    g_clear_pointer(&call->message, g_free);
    call->done = call->ok = false;
}

void fl_libvirt_call_unref(FlLibvirtCall *call)
{
    if (call == NULL || !g_atomic_ref_count_dec(&call->refs))
        return;
    fl_libvirt_call_reset(call);
    g_free(call->text);
    /* It may be a key. */
    if (call->more != NULL)
        explicit_bzero(call->more, strlen(call->more));
    g_free(call->more);
    g_mutex_clear(&call->lock);
    g_cond_clear(&call->cond);
    g_free(call);
}

void fl_libvirt_call_note_error(FlLibvirtCall *call)
{
    const virError *error = virGetLastError();

    if (call->message != NULL)
        return;
    call->code = error != NULL ? error->code : VIR_ERR_INTERNAL_ERROR;
    call->from = error != NULL ? error->domain : VIR_FROM_NONE;
    call->message = g_strdelimit(g_strdup(virGetLastErrorMessage()), "\n", ' ');
}

static gpointer run(gpointer data)
{
    FlLibvirtCall *call = data;
    bool ok = call->ask(call);

    if (!ok)
        fl_libvirt_call_note_error(call);
    g_mutex_lock(&call->lock);
    call->ok = ok;
    call->done = true;
    g_cond_signal(&call->cond);
    g_mutex_unlock(&call->lock);
    fl_libvirt_call_unref(call);
    return NULL;
}

bool fl_libvirt_call_run(FlLibvirtCall *call, unsigned timeout)
{
    gint64 end = g_get_monotonic_time() + (gint64)timeout * 1000;
    g_autoptr(GError) failure = NULL;
    GThread *thread;
    bool ok;

    g_atomic_ref_count_inc(&call->refs);
    thread = fl_thread_start("fleecefs-libvirt", run, call, &failure);
    /* Without a thread run the call here, unbounded: otherwise nobody would thaw the guest or clean
     * up. */
    if (thread == NULL) {
        run(call);
        call->silent = call->interrupted = false;
        return call->ok;
    }
    g_mutex_lock(&call->lock);
    while (!call->done && !fl_interrupted() && g_get_monotonic_time() < end)
        g_cond_wait_until(
            &call->cond, &call->lock,
            MIN(end, g_get_monotonic_time() + FL_INTERRUPT_MS * G_TIME_SPAN_MILLISECOND));
    call->silent = !call->done;
    call->interrupted = call->silent && fl_interrupted();
    ok = call->done && call->ok;
    g_mutex_unlock(&call->lock);
    if (call->silent)
        g_thread_unref(thread);
    else
        g_thread_join(thread);
    return ok;
}

bool fl_libvirt_call_take(FlLibvirtCall *call, char *string)
{
    call->string = g_strdup(string);
    free(string);
    return call->string != NULL;
}
