/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What ThreadSanitizer does not see of GLib, which is not built with it: that who takes a lock, a
 * task's result or the last reference knows what was done before it was given. The calls that we
 * make are wrapped (ld(1), --wrap) and say so.
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
DECLARE(void, g_task_run_in_thread, GTask *task, GTaskThreadFunc function)
DECLARE(void, g_task_return_pointer, GTask *task, gpointer result, GDestroyNotify destroy)
DECLARE(void, g_task_return_boolean, GTask *task, gboolean result)
DECLARE(void, g_task_return_error, GTask *task, GError *error)
DECLARE(gpointer, g_task_propagate_pointer, GTask *task, GError **error)
DECLARE(gboolean, g_task_propagate_boolean, GTask *task, GError **error)

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

/* Calls that are handed to another thread */

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

static void run_task(GTask *task, gpointer source, gpointer data, GCancellable *cancel)
{
    GTaskThreadFunc function;

    __tsan_acquire(task);
    function = (GTaskThreadFunc)g_object_get_data(G_OBJECT(task), "function");
    function(task, source, data, cancel);
}

void WRAP(g_task_run_in_thread)(GTask *task, GTaskThreadFunc function)
{
    g_object_set_data(G_OBJECT(task), "function", (gpointer)function);
    __tsan_release(task);
    REAL(g_task_run_in_thread)(task, run_task);
}

void WRAP(g_task_return_pointer)(GTask *task, gpointer result, GDestroyNotify destroy)
{
    __tsan_release(task);
    REAL(g_task_return_pointer)(task, result, destroy);
}

void WRAP(g_task_return_boolean)(GTask *task, gboolean result)
{
    __tsan_release(task);
    REAL(g_task_return_boolean)(task, result);
}

void WRAP(g_task_return_error)(GTask *task, GError *error)
{
    __tsan_release(task);
    REAL(g_task_return_error)(task, error);
}

gpointer WRAP(g_task_propagate_pointer)(GTask *task, GError **error)
{
    __tsan_acquire(task);
    return REAL(g_task_propagate_pointer)(task, error);
}

gboolean WRAP(g_task_propagate_boolean)(GTask *task, GError **error)
{
    __tsan_acquire(task);
    return REAL(g_task_propagate_boolean)(task, error);
}
