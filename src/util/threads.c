/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "threads.h"

#include <errno.h>
#include <glib.h>
#include <semaphore.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PATIENCE_USEC 500000
#define POLL_USEC     100

/* Passed with the signal. */
typedef struct {
    void (*function)(void *opaque);
    void *opaque;
    sem_t done;
} Call;

static void on_signal(int signum, siginfo_t *info, void *context)
{
    int saved = errno;
    Call *call = info->si_value.sival_ptr;

    /* Sent by another process: its pointer is not ours. */
    if (info->si_code != SI_QUEUE || info->si_pid != getpid())
        return;
    call->function(call->opaque);
    sem_post(&call->done);
    errno = saved;
}

static bool has_ended(pid_t thread)
{
    return syscall(SYS_tgkill, getpid(), thread, 0) != 0 && errno == ESRCH;
}

/* Polls: a thread that ends first drops the signal. Its clock is not that of sem_timedwait(3),
 * which may be set back. */
static bool wait_for(Call *call, pid_t thread)
{
    gint64 end = g_get_monotonic_time() + PATIENCE_USEC;

    while (sem_trywait(&call->done) != 0) {
        if (has_ended(thread)) {
            sem_trywait(&call->done); /* in case it has run the function since */
            return true;
        }
        if (g_get_monotonic_time() >= end)
            return false;
        g_usleep(POLL_USEC);
    }
    return true;
}

static bool call_thread(Call *call, pid_t thread)
{
    siginfo_t info = {.si_signo = SIGRTMIN, .si_code = SI_QUEUE};

    info.si_pid = getpid();
    info.si_uid = getuid();
    info.si_value.sival_ptr = call;
    if (syscall(SYS_rt_tgsigqueueinfo, getpid(), thread, SIGRTMIN, &info) != 0)
        return errno == ESRCH; /* the thread has ended */
    return wait_for(call, thread);
}

/* Calls the threads that are not in SEEN. False if there was none, or on failure. */
static bool call_new_threads(Call *call, GHashTable *seen, bool *failed)
{
    g_autoptr(GDir) dir = g_dir_open("/proc/self/task", 0, NULL);
    const char *name;
    bool any = false;

    *failed = dir == NULL;
    while (!*failed && (name = g_dir_read_name(dir)) != NULL) {
        pid_t thread = (pid_t)strtol(name, NULL, 10);

        if (thread == (pid_t)syscall(SYS_gettid) ||
            !g_hash_table_add(seen, GINT_TO_POINTER(thread)))
            continue;
        any = true;
        *failed = !call_thread(call, thread);
    }
    return any && !*failed;
}

bool fl_each_thread(void (*function)(void *opaque), void *opaque)
{
    g_autoptr(GHashTable) seen = g_hash_table_new(NULL, NULL);
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_RESTART}, old;
    Call *call = g_new0(Call, 1);
    bool failed;

    call->function = function;
    call->opaque = opaque;
    sem_init(&call->done, 0, 0);
    sigfillset(&action.sa_mask);
    sigaction(SIGRTMIN, &action, &old);
    while (call_new_threads(call, seen, &failed))
        ;
    function(opaque);
    if (failed)
        return false; /* the signal may still arrive: leak CALL, keep the handler */
    sigaction(SIGRTMIN, &old, NULL);
    sem_destroy(&call->done);
    g_free(call);
    return true;
}
