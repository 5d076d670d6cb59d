/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "snapshot/session.h"

#include "snapshot/point.h"
#include "util/interrupt.h"

#include <sys/eventfd.h>

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* Keeps the first error and appends the messages of later ones. */
static void add_error(GError **error, GError *more)
{
    if (*error == NULL) {
        *error = more;
        return;
    }
    g_prefix_error(&more, "%s; ", (*error)->message);
    g_free((*error)->message);
    (*error)->message = g_strdup(more->message);
    g_error_free(more);
}

/* A cleanup that is not allowed now is left to the next session, which finds it in the journal. */
static bool is_allowed(FlSnapshot *backup, FlAction action, GError **error)
{
    if (backup->provider->allow_action(backup, action, error))
        return true;
    if (action == FL_ACTION_SWEEP || action == FL_ACTION_ROLL_BACK) {
        backup->left = true;
        g_prefix_error(error, "nothing was written to the disks; the next mount, or fleecefs "
                              "--recover, removes what is left of this session: ");
    }
    return false;
}

static bool run_action(FlSnapshot *backup, FlAction action, GError **error)
{
    bool allowed;

    /* The sweep before it has already reported why. */
    if (backup->refused && action == FL_ACTION_ROLL_BACK)
        return true;
    allowed = is_allowed(backup, action, error);
    backup->refused = !allowed && action == FL_ACTION_SWEEP;
    return allowed && (backup->provider->actions[action] == NULL ||
                       backup->provider->actions[action](backup, error));
}

static FlEvent run_step(FlSnapshot *backup, const FlStep *step, GError **error)
{
    FlEvent event = FL_EVENT_DONE;

    for (int i = 0; i < FL_STEP_ACTIONS && step->actions[i] != FL_ACTION_NONE; i++) {
        GError *failure = NULL;
        uint64_t start = now_ns();
        bool ok = run_action(backup, step->actions[i], &failure);

        if (step->actions[i] == FL_ACTION_SNAPSHOT)
            backup->times.held = now_ns() - start;
        if (ok)
            continue;
        add_error(error, failure);
        event = FL_EVENT_FAILED;
        if (!step->all)
            break;
    }
    return event;
}

/* Whether a signal may interrupt the work of STATE: never a cleanup, nor anything done while the
 * guest is frozen. */
static bool is_interruptible(FlState state)
{
    return state == FL_STATE_CHECKING || state == FL_STATE_PREPARING ||
           state == FL_STATE_FREEZING || state == FL_STATE_EXPORTING;
}

/* Runs STEP. If a signal interrupted it, or arrived before it, the step fails. */
static FlEvent run_interruptible(FlSnapshot *backup, const FlStep *step, GError **error)
{
    bool before = fl_interrupt_allow(false);
    FlEvent event;

    fl_interrupt_allow(before && is_interruptible(step->state));
    event = fl_interrupt_check(error) ? run_step(backup, step, error) : FL_EVENT_FAILED;
    fl_interrupt_allow(before);
    return event;
}

/* Runs EVENT and the events that follow from it until none is left. ERROR collects all failures. */
static void drive(FlSnapshot *backup, FlEvent event, GError **error)
{
    const FlStep *step;

    do {
        step = fl_machine_step(backup->state, event);
        g_assert(step != NULL);
        backup->state = step->state;
        event = run_interruptible(backup, step, error);
    } while (step->actions[0] != FL_ACTION_NONE);
}

/* Returns BACKUP if it has a descriptor to wake its thread; otherwise frees it and returns NULL. */
static FlSnapshot *with_wake(FlSnapshot *backup, GError **error)
{
    if (backup == NULL || backup->wake >= 0)
        return backup;
    fl_fail(error, "%s: cannot watch the snapshot: no file descriptor available",
            backup->options->source);
    fl_snapshot_free(backup);
    return NULL;
}

/* Rejects options that PROVIDER does not support: silently ignoring one would be misleading. */
static bool check_own_options(const FlSnapshotOptions *options, const FlProvider *provider,
                              GError **error)
{
    for (guint i = 0; options->values != NULL && i < options->values->len; i++) {
        const char *name = ((const FlSourceValue *)options->values->pdata[i])->option->name;

        if (fl_providers_option(name) != NULL && fl_provider_option(provider, name) == NULL)
            return fl_fail_usage(error, "%s: option %s does not apply to sources %s",
                                 options->source, name, provider->usage);
    }
    return true;
}

static FlSnapshot *open_source(const FlSnapshotOptions *options, GError **error)
{
    const FlProvider *provider = fl_provider_find(options->source);
    g_autofree char *usage = NULL;

    if (!fl_series_check(fl_snapshot_series(options), error))
        return NULL;
    if (provider == NULL) {
        usage = fl_providers_usage();
        fl_fail_usage(error, "%s: not the name of a VM (%s)", options->source, usage);
        return NULL;
    }
    return check_own_options(options, provider, error)
               ? with_wake(provider->open(options, error), error)
               : NULL;
}

/* Prefixes FAILURE with the source unless it already begins with it. */
static void name_source(FlSnapshot *backup, GError *failure, GError **error)
{
    if (!g_str_has_prefix(failure->message, backup->options->source))
        g_prefix_error(&failure, "%s: ", backup->options->source);
    g_propagate_error(error, failure);
}

FlSnapshot *fl_snapshot_begin(const FlSnapshotOptions *options, GError **error)
{
    uint64_t start = now_ns();
    g_autoptr(FlSnapshot) backup = open_source(options, error);
    GError *failure = NULL;

    if (backup == NULL)
        return NULL;
    drive(backup, FL_EVENT_BEGIN, &failure);
    if (failure != NULL) {
        name_source(backup, failure, error);
        return NULL;
    }
    backup->times.begin = now_ns() - start;
    fl_snapshot_measure(backup);
    return g_steal_pointer(&backup);
}

/* Cleans up after earlier sessions and, with FORGET, also removes the restore points. */
static bool clean_up(const FlSnapshotOptions *options, bool forget, char **report, GError **error)
{
    g_autoptr(FlSnapshot) backup = open_source(options, error);
    GError *failure = NULL;

    if (backup == NULL)
        return false;
    drive(backup, FL_EVENT_RECOVER, &failure);
    if (failure == NULL && forget)
        backup->provider->forget(backup, &failure);
    g_ptr_array_add(backup->report, NULL);
    *report = g_strjoinv("\n", (char **)backup->report->pdata);
    if (failure == NULL)
        return true;
    failure->domain = FL_ERROR;
    failure->code = FL_ERROR_LEFT;
    name_source(backup, failure, error);
    return false;
}

bool fl_snapshot_recover(const FlSnapshotOptions *options, char **report, GError **error)
{
    return clean_up(options, false, report, error);
}

bool fl_snapshot_forget(const FlSnapshotOptions *options, char **report, GError **error)
{
    return clean_up(options, true, report, error);
}

/* Reports each newly lost disk to the caller. Returns whether there was any. */
static bool tell_lost(FlSnapshot *backup)
{
    bool any = false;

    for (guint i = 0; i < backup->disks->len; i++) {
        FlSnapshotDisk *disk = g_ptr_array_index(backup->disks, i);

        if (disk->lost == NULL || disk->told)
            continue;
        disk->told = any = true;
        backup->watcher->lost(disk, disk->lost, backup->opaque);
    }
    return any;
}

/* Returns whether to continue; stores the number of the last request in ASKED. */
static bool woken(FlSnapshot *backup, uint64_t *asked)
{
    eventfd_t value;
    bool stop;

    eventfd_read(backup->wake, &value);
    g_mutex_lock(&backup->lock);
    stop = backup->stop;
    *asked = backup->asked;
    g_mutex_unlock(&backup->lock);
    return !stop;
}

static gpointer watch(gpointer data)
{
    FlSnapshot *backup = data;
    uint64_t asked;

    while (woken(backup, &asked)) {
        bool any = asked > backup->answered;
        bool known = any && backup->provider->look(backup);
        bool lost = tell_lost(backup);
        g_autoptr(GError) ignored = NULL;

        if (any)
            backup->watcher->answered(asked, known, backup->opaque);
        backup->answered = asked;
        /* Errors here are retried and reported by commit or abort. */
        if (lost)
            drive(backup, FL_EVENT_LOST, &ignored);
        else
            backup->provider->wait(backup, backup->wake);
    }
    return NULL;
}

static void set_stop(FlSnapshot *backup, bool stop)
{
    g_mutex_lock(&backup->lock);
    backup->stop = stop;
    g_mutex_unlock(&backup->lock);
    eventfd_write(backup->wake, 1);
}

/* An unwatched snapshot may turn into live data at any time, so without the thread it is lost. */
static void start_watch(FlSnapshot *backup)
{
    g_autoptr(GError) failure = NULL;

    set_stop(backup, false);
    backup->thread = fl_thread_start("fleecefs-vm", watch, backup, &failure);
    if (backup->thread != NULL)
        return;
    fl_snapshot_lose_all(backup, failure->message);
    tell_lost(backup);
}

static void stop_watch(FlSnapshot *backup)
{
    if (backup->thread == NULL)
        return;
    set_stop(backup, true);
    g_thread_join(g_steal_pointer(&backup->thread));
}

void fl_snapshot_watch(FlSnapshot *backup, const FlSnapshotWatcher *watcher, void *opaque)
{
    backup->watcher = watcher;
    backup->opaque = opaque;
    start_watch(backup);
}

uint64_t fl_snapshot_ask(FlSnapshot *backup)
{
    uint64_t number;

    g_mutex_lock(&backup->lock);
    number = ++backup->asked;
    g_mutex_unlock(&backup->lock);
    eventfd_write(backup->wake, 1);
    return number;
}

bool fl_snapshot_can_ask(const FlSnapshot *backup)
{
    return backup->provider->look != NULL;
}

/* Drives EVENT to a final state. FL_ERROR_LEFT if WANTED was reached but the cleanup was
 * incomplete. */
static bool end(FlSnapshot *backup, FlEvent event, FlState wanted, GError **error)
{
    GError *failure = NULL;
    FlState state;

    stop_watch(backup);
    if (backup->state == wanted)
        return true;
    if (fl_machine_step(backup->state, event) == NULL)
        return fl_fail(error, "%s: the snapshot has already ended", backup->options->source);
    drive(backup, event, &failure);
    /* Read it before the watch restarts, which may change it. */
    state = backup->state;
    if (state == FL_STATE_HELD && backup->watcher != NULL)
        start_watch(backup);
    /* A caller may start the next session while this process is still exiting. */
    if (fl_machine_is_last(state))
        backup->provider->release(backup);
    if (failure == NULL)
        return true;

    failure->domain = FL_ERROR;
    failure->code = state == wanted ? FL_ERROR_LEFT : FL_ERROR_FAILED;
    /* A commit that failed after the exports were gone counts as an abort. */
    if (fl_machine_is_last(state) && state != wanted && backup->watcher != NULL)
        backup->watcher->lost(NULL, failure->message, backup->opaque);
    name_source(backup, failure, error);
    return false;
}

bool fl_snapshot_check(FlSnapshot *backup, GError **error)
{
    GError *failure = NULL;

    if (fl_machine_is_last(backup->state))
        return true;
    stop_watch(backup);
    drive(backup, FL_EVENT_CHECK, &failure);
    if (backup->watcher != NULL)
        start_watch(backup);
    if (failure == NULL)
        return true;
    name_source(backup, failure, error);
    return false;
}

bool fl_snapshot_commit(FlSnapshot *backup, GError **error)
{
    return end(backup, FL_EVENT_COMMIT, FL_STATE_COMMITTED, error);
}

bool fl_snapshot_abort(FlSnapshot *backup, GError **error)
{
    return end(backup, FL_EVENT_ABORT, FL_STATE_ABORTED, error);
}

void fl_snapshot_free(FlSnapshot *backup)
{
    bool before;

    if (backup == NULL)
        return;
    stop_watch(backup);
    before = fl_interrupt_allow(false);
    backup->provider->close(backup);
    fl_interrupt_allow(before);
}

const GPtrArray *fl_snapshot_disks(const FlSnapshot *backup)
{
    return backup->disks;
}

const FlSnapshotVm *fl_snapshot_vm(const FlSnapshot *backup)
{
    return &backup->vm;
}

const char *fl_snapshot_id(const FlSnapshot *backup)
{
    return backup->id;
}

int fl_snapshot_socket(const FlSnapshot *backup)
{
    return backup->socket;
}

const char *fl_snapshot_server_uri(const FlSnapshot *backup)
{
    return backup->server_uri;
}

const char *fl_snapshot_relay(const FlSnapshot *backup)
{
    return backup->relay;
}

unsigned fl_snapshot_max_clients(const FlSnapshot *backup)
{
    return backup->max_clients;
}

void fl_snapshot_allow(const FlSnapshot *backup, FlSandbox *sandbox)
{
    g_autofree char *state = fl_state_directory(NULL);
    g_autofree char *descriptor = g_strdup_printf("/proc/self/fd/%d", backup->socket);
    g_autofree char *socket = g_file_read_link(descriptor, NULL);
    g_autofree char *directory = socket != NULL ? g_path_get_dirname(socket) : NULL;
    g_autofree char *parent = directory != NULL ? g_path_get_dirname(directory) : NULL;

    fl_sandbox_allow(sandbox, state, FL_SANDBOX_READ | FL_SANDBOX_WRITE | FL_SANDBOX_REMOVE);
    /* The socket's own folder is removed with it. */
    fl_sandbox_allow(sandbox, directory, FL_SANDBOX_REMOVE);
    fl_sandbox_allow(sandbox, parent, FL_SANDBOX_REMOVE_FOLDERS);
    backup->provider->allow(backup, sandbox);
}

struct timespec fl_snapshot_time(const FlSnapshot *backup)
{
    return backup->time;
}

FlSnapshotTimes fl_snapshot_times(const FlSnapshot *backup)
{
    return backup->times;
}

const GPtrArray *fl_snapshot_missing(const FlSnapshot *backup)
{
    return backup->missing;
}

const GPtrArray *fl_snapshot_notes(const FlSnapshot *backup)
{
    return backup->notes;
}

void fl_snapshot_scratch_use(const FlSnapshot *backup, const FlSnapshotDisk *disk, uint64_t *used,
                             uint64_t *limit)
{
    *used = __atomic_load_n(&disk->scratch_used, __ATOMIC_RELAXED);
    *limit = __atomic_load_n(&disk->scratch_limit, __ATOMIC_RELAXED);
}
