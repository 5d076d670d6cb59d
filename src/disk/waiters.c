/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "disk/waiters.h"

typedef struct {
    FlDiskLoaded done;
    void *opaque;
} Waiter;

struct FlWaiters {
    GArray *array; /* of Waiter */
};

FlWaiters *fl_waiters_new(void)
{
    FlWaiters *waiters = g_new0(FlWaiters, 1);

    waiters->array = g_array_new(FALSE, FALSE, sizeof(Waiter));
    return waiters;
}

void fl_waiters_free(FlWaiters *waiters)
{
    if (waiters == NULL)
        return;
    g_array_unref(waiters->array);
    g_free(waiters);
}

void fl_waiters_add(FlWaiters *waiters, FlDiskLoaded done, void *opaque)
{
    Waiter waiter = {.done = done, .opaque = opaque};

    g_array_append_val(waiters->array, waiter);
}

bool fl_waiters_any(const FlWaiters *waiters)
{
    return waiters->array->len > 0;
}

void fl_waiters_tell(FlWaiters *waiters, FlDisk *disk, errint_t result)
{
    g_autoptr(GArray) told = g_steal_pointer(&waiters->array);

    waiters->array = g_array_new(FALSE, FALSE, sizeof(Waiter));
    for (guint i = 0; i < told->len; i++) {
        const Waiter *waiter = &g_array_index(told, Waiter, i);
        waiter->done(disk, result, waiter->opaque);
    }
}
