/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tells ThreadSanitizer about synchronization in GLib, which is not instrumented: locks, calls
 * passed to another thread, and the last reference happen after the operations that released them.
 * Wraps (ld(1), --wrap) the functions that we call.
 */
#include <gio/gio.h>
#include <sanitizer/tsan_interface.h>

#define REAL(name) __real_##name
#define WRAP(name) __wrap_##name

#define DECLARE(type, name, ...)                                                                   \
    type REAL(name)(__VA_ARGS__);                                                                  \
    type WRAP(name)(__VA_ARGS__);

DECLARE(void, g_mutex_lock, GMutex *mutex)
DECLARE(void, g_mutex_unlock, GMutex *mutex)
DECLARE(void, g_cond_wait, GCond *cond, GMutex *mutex)
DECLARE(gboolean, g_cond_wait_until, GCond *cond, GMutex *mutex, gint64 end)
DECLARE(gboolean, g_atomic_ref_count_dec, gatomicrefcount *count)
DECLARE(guint, g_idle_add_full, gint priority, GSourceFunc function, gpointer data,
        GDestroyNotify destroy)

void WRAP(g_mutex_lock)(GMutex *mutex)
{
    REAL(g_mutex_lock)(mutex);
    __tsan_acquire(mutex);
}

void WRAP(g_mutex_unlock)(GMutex *mutex)
{
    __tsan_release(mutex);
    REAL(g_mutex_unlock)(mutex);
}

void WRAP(g_cond_wait)(GCond *cond, GMutex *mutex)
{
    __tsan_release(mutex);
    REAL(g_cond_wait)(cond, mutex);
    __tsan_acquire(mutex);
}

gboolean WRAP(g_cond_wait_until)(GCond *cond, GMutex *mutex, gint64 end)
{
    gboolean signalled;

    __tsan_release(mutex);
    signalled = REAL(g_cond_wait_until)(cond, mutex, end);
    __tsan_acquire(mutex);
    return signalled;
}

gboolean WRAP(g_atomic_ref_count_dec)(gatomicrefcount *count)
{
    gboolean last;

    __tsan_release(count);
    last = REAL(g_atomic_ref_count_dec)(count);
    if (last)
        __tsan_acquire(count);
    return last;
}

/* Calls passed to another thread */

typedef struct {
    GSourceFunc function;
    gpointer data;
    GDestroyNotify destroy;
} Idle;

static gboolean run_idle(gpointer data)
{
    Idle *idle = data;

    __tsan_acquire(idle);
    return idle->function(idle->data);
}

static void free_idle(gpointer data)
{
    Idle *idle = data;

    __tsan_acquire(idle);
    if (idle->destroy != NULL)
        idle->destroy(idle->data);
    g_free(idle);
}

guint WRAP(g_idle_add_full)(gint priority, GSourceFunc function, gpointer data,
                            GDestroyNotify destroy)
{
    Idle *idle = g_new(Idle, 1);

    *idle = (Idle){.function = function, .data = data, .destroy = destroy};
    __tsan_release(idle);
    return REAL(g_idle_add_full)(priority, run_idle, idle, free_idle);
}
