/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/interrupt.h"

#include <errno.h>
#include <glib-unix.h>
#include <sys/eventfd.h>

static const int end_signals[] = {SIGINT, SIGTERM, SIGHUP};
/* Set in the thread that begins snapshots; saves passing it down to each wait. */
static _Thread_local bool is_allowed;
/* Global, since a signal handler has no argument for it. */
static int handler_fd = -1;
static guint watch_source; /* 0: none */

typedef struct {
    void (*function)(void *opaque);
    void *opaque;
} Watch;

void fl_interrupt_mask(int how)
{
    sigset_t set;

    sigemptyset(&set);
    for (size_t i = 0; i < G_N_ELEMENTS(end_signals); i++)
        sigaddset(&set, end_signals[i]);
    pthread_sigmask(how, &set, NULL);
}

GThread *fl_thread_start(const char *name, GThreadFunc function, void *opaque, GError **error)
{
    GThread *thread;
    sigset_t before;

    /* The thread inherits the mask. */
    pthread_sigmask(SIG_BLOCK, NULL, &before);
    fl_interrupt_mask(SIG_BLOCK);
    thread = g_thread_try_new(name, function, opaque, error);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return thread;
}

bool fl_interrupt_allow(bool allowed)
{
    bool before = is_allowed;

    is_allowed = allowed;
    return before;
}

bool fl_interrupted(void)
{
    sigset_t pending;

    if (!is_allowed || sigpending(&pending) != 0)
        return false;
    for (size_t i = 0; i < G_N_ELEMENTS(end_signals); i++) {
        if (sigismember(&pending, end_signals[i]) == 1)
            return true;
    }
    return false;
}

bool fl_interrupt_check(GError **error)
{
    return !fl_interrupted() || fl_fail(error, "interrupted by a signal");
}

static void on_signal(int signum)
{
    int saved = errno;

    eventfd_write(handler_fd, 1);
    errno = saved;
}

static gboolean on_event(int fd, GIOCondition condition, gpointer data)
{
    const Watch *watch = data;
    eventfd_t count;

    eventfd_read(fd, &count);
    watch->function(watch->opaque);
    return G_SOURCE_CONTINUE;
}

bool fl_interrupt_watch(void (*function)(void *opaque), void *opaque, GError **error)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    Watch *watch;

    handler_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (handler_fd < 0)
        return fl_fail(error, "cannot wait for signals: %s", g_strerror(errno));
    watch = g_new(Watch, 1);
    *watch = (Watch){.function = function, .opaque = opaque};
    watch_source =
        g_unix_fd_add_full(G_PRIORITY_DEFAULT, handler_fd, G_IO_IN, on_event, watch, g_free);
    for (size_t i = 0; i < G_N_ELEMENTS(end_signals); i++)
        sigaction(end_signals[i], &action, NULL);
    return true;
}

void fl_interrupt_ignore(void)
{
    for (size_t i = 0; i < G_N_ELEMENTS(end_signals); i++)
        signal(end_signals[i], SIG_IGN);
    g_clear_handle_id(&watch_source, g_source_remove);
}
