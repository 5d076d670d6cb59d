/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/interrupt.h"

static const int end_signals[] = {SIGINT, SIGTERM, SIGHUP};
/* Of the thread that begins snapshots, and nobody else's to pass down through each wait. */
static _Thread_local bool is_allowed;

void fl_interrupt_mask(int how)
{
    sigset_t set;

    sigemptyset(&set);
    for (size_t i = 0; i < G_N_ELEMENTS(end_signals); i++)
        sigaddset(&set, end_signals[i]);
    pthread_sigmask(how, &set, NULL);
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
