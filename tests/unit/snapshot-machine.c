/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Walks every path of the table, including the failure of every action that can fail, and checks
 * the result. */
#include "snapshot/machine.h"

#include <glib.h>

typedef struct {
    FlState state;
    bool journal, overlays, points, exports; /* what may exist */
    bool frozen;
    bool verified, dropped_new, confirmed;
} World;

static unsigned n_paths;

/* Applies ACTION; unless OK, it may have been done in part. */
static void act(World *w, FlAction action, bool ok)
{
    switch (action) {
    case FL_ACTION_NONE:
        break;
    case FL_ACTION_INSPECT:
        g_assert_false(w->journal || w->overlays || w->points || w->exports || w->frozen);
        break;
    case FL_ACTION_JOURNAL:
        w->journal = true;
        break;
    case FL_ACTION_SERVE:
    case FL_ACTION_PREPARE:
        g_assert_true(w->journal);
        w->overlays = true;
        break;
    case FL_ACTION_FREEZE:
        g_assert_true(w->journal && w->overlays);
        w->frozen = true;
        break;
    case FL_ACTION_SNAPSHOT:
        g_assert_true(w->journal && w->overlays);
        w->points = true;
        w->dropped_new = false; /* earlier drops belong to an earlier session */
        break;
    case FL_ACTION_THAW:
        if (ok)
            w->frozen = false;
        break;
    case FL_ACTION_EXPORT:
        g_assert_true(w->points && !w->frozen);
        w->exports = true;
        break;
    case FL_ACTION_CHECK_JOBS:
        w->verified = ok;
        break;
    case FL_ACTION_LET_GO:
        break;
    case FL_ACTION_SWEEP:
        if (ok)
            w->exports = w->overlays = false;
        break;
    case FL_ACTION_ROLL_BACK:
        g_assert_false(w->confirmed);
        if (ok)
            w->points = false;
        w->dropped_new = true;
        break;
    case FL_ACTION_ROLL_FORWARD:
        g_assert_true(w->verified && w->points && !w->dropped_new);
        w->confirmed = ok;
        break;
    case FL_ACTION_FORGET:
        w->journal = false;
        break;
    }
}

static void take(World w, FlEvent event, unsigned failures);

/* Nothing is left after a complete cleanup. */
static void check_last(const World *w, unsigned failures)
{
    n_paths++;
    g_assert_true(w->confirmed == (w->state == FL_STATE_COMMITTED));
    if (failures == 0)
        g_assert_false(w->frozen || w->overlays || w->exports || w->journal);
    if (failures == 0 && !w->confirmed)
        g_assert_false(w->points);
}

static void rest(World w, unsigned failures)
{
    if (fl_machine_is_last(w.state)) {
        check_last(&w, failures);
        return;
    }
    g_assert_cmpint(w.state, ==, FL_STATE_HELD);
    g_assert_true(w.points && !w.frozen);
    take(w, FL_EVENT_ABORT, failures);
    take(w, FL_EVENT_COMMIT, failures);
    if (failures == 0) {
        take(w, FL_EVENT_LOST, 1);
        take(w, FL_EVENT_CHECK, 1);
    }
}

/* Runs the actions from number I on, with each outcome of each. FAILURES counts failed cleanup
 * actions; a third one would test nothing new. */
static void run(World w, const FlStep *step, int i, bool failed, unsigned failures)
{
    if (i == 0 && step->actions[0] == FL_ACTION_NONE) {
        rest(w, failures);
        return;
    }
    if (i == FL_STEP_ACTIONS || step->actions[i] == FL_ACTION_NONE || (failed && !step->all)) {
        take(w, failed ? FL_EVENT_FAILED : FL_EVENT_DONE, failures);
        return;
    }
    for (int ok = 1; ok >= 0; ok--) {
        World next = w;
        unsigned more = failures + (!ok && (step->all || step->state == FL_STATE_VERIFYING ||
                                            step->state == FL_STATE_LOOKING ||
                                            step->state == FL_STATE_DROPPING));

        if (more > 2)
            continue;
        act(&next, step->actions[i], ok);
        run(next, step, i + 1, failed || !ok, more);
    }
}

static void take(World w, FlEvent event, unsigned failures)
{
    const FlStep *step = fl_machine_step(w.state, event);

    g_assert_nonnull(step);
    /* A snapshot that could not be confirmed can be ended in another way. */
    if (event == FL_EVENT_FAILED && w.state == FL_STATE_VERIFYING)
        g_assert_cmpint(step->state, ==, FL_STATE_HELD);
    if (w.frozen)
        g_assert_true(step->state == FL_STATE_SNAPPING || step->actions[0] == FL_ACTION_THAW ||
                      step->actions[0] == FL_ACTION_NONE || failures > 0);
    w.state = step->state;
    run(w, step, 0, false, failures);
}

static void test_paths(void)
{
    n_paths = 0;
    take((World){.state = FL_STATE_IDLE}, FL_EVENT_BEGIN, 0);
    g_assert_cmpuint(n_paths, >, 20);
    take((World){.state = FL_STATE_IDLE,
                 .journal = true,
                 .overlays = true,
                 .points = true,
                 .exports = true,
                 .frozen = true},
         FL_EVENT_RECOVER, 0);
}

static void test_events_out_of_place(void)
{
    g_assert_null(fl_machine_step(FL_STATE_COMMITTED, FL_EVENT_COMMIT));
    g_assert_null(fl_machine_step(FL_STATE_ABORTED, FL_EVENT_ABORT));
    g_assert_null(fl_machine_step(FL_STATE_IDLE, FL_EVENT_COMMIT));
    g_assert_null(fl_machine_step(FL_STATE_HELD, FL_EVENT_BEGIN));
}

/* No step is listed twice, and every state that runs actions handles both outcomes. */
static void test_table_is_whole(void)
{
    for (int s = 0; s < FL_N_STATES; s++) {
        for (int e = 0; e < FL_N_EVENTS; e++) {
            const FlStep *step = fl_machine_step((FlState)s, (FlEvent)e);
            if (step == NULL || step->actions[0] == FL_ACTION_NONE)
                continue;
            g_assert_nonnull(fl_machine_step(step->state, FL_EVENT_DONE));
            g_assert_nonnull(fl_machine_step(step->state, FL_EVENT_FAILED));
        }
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/backup/machine/paths", test_paths);
    g_test_add_func("/backup/machine/events-out-of-place", test_events_out_of_place);
    g_test_add_func("/backup/machine/table-is-whole", test_table_is_whole);
    return g_test_run();
}
