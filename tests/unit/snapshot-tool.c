/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Drives a backup from standard input, for tests against a real QEMU without a mount.
 *
 *     snapshot-tool [OPTIONS] SOURCE      begins, prints a JSON object, then obeys "commit",
 * "abort", "quit" (leave everything as it is); each is answered by a line "ok", "left: WHY" or
 * "failed: WHY" snapshot-tool --recover SOURCE
 * The loss of a disk is reported by a line "lost: DISK: WHY".
 */
#include "snapshot/provider.h"

#include "qemu/qmp.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A node that owns ARRAY. */
static JsonNode *array_node(JsonArray *array)
{
    JsonNode *node = json_node_new(JSON_NODE_ARRAY);

    json_node_take_array(node, array);
    return node;
}

static JsonNode *describe_bitmaps(const FlSnapshotDisk *disk)
{
    JsonArray *array = json_array_new();

    for (guint i = 0; i < disk->bitmaps->len; i++) {
        const FlBitmap *bitmap = g_ptr_array_index(disk->bitmaps, i);
        json_array_add_element(array,
                               fl_qmp_args(fl_qmp_string("name", bitmap->name),
                                           fl_qmp_string("context", bitmap->context),
                                           fl_qmp_int("granularity", (gint64)bitmap->granularity)));
    }
    return array_node(array);
}

static void print_snapshot(const FlSnapshot *backup)
{
    const GPtrArray *disks = fl_snapshot_disks(backup), *notes = fl_snapshot_notes(backup);
    g_autofree char *socket =
        g_strdup_printf("/proc/%d/fd/%d", (int)getpid(), fl_snapshot_socket(backup));
    JsonArray *array = json_array_new(), *lines = json_array_new();
    FlSnapshotTimes times = fl_snapshot_times(backup);
    g_autofree char *text = NULL;
    g_autoptr(JsonNode) node = NULL;

    for (guint i = 0; i < disks->len; i++) {
        const FlSnapshotDisk *disk = g_ptr_array_index(disks, i);
        json_array_add_element(
            array,
            fl_qmp_args(fl_qmp_string("name", disk->name),
                        fl_qmp_string("export", disk->export_name),
                        fl_qmp_string("image", disk->image), fl_qmp_int("size", (gint64)disk->size),
                        fl_qmp_string("restore_point", disk->restore_point),
                        fl_qmp_string("base", disk->base), fl_qmp_string("disk_id", disk->disk_id),
                        fl_qmp_string("reason", disk->reason),
                        fl_qmp_node("bitmaps", describe_bitmaps(disk))));
    }
    for (guint i = 0; i < notes->len; i++)
        json_array_add_string_element(lines, g_ptr_array_index(notes, i));
    node = fl_qmp_args(
        fl_qmp_string("socket", socket), fl_qmp_string("snapshot", fl_snapshot_id(backup)),
        fl_qmp_int("seconds", (gint64)fl_snapshot_time(backup).tv_sec),
        fl_qmp_int("begin_us", (gint64)(times.begin / 1000)),
        fl_qmp_int("frozen_us", (gint64)(times.frozen / 1000)),
        fl_qmp_node("disks", array_node(array)), fl_qmp_node("notes", array_node(lines)));
    text = json_to_string(node, FALSE);
    puts(text);
}

static void on_lost(const FlSnapshotDisk *disk, const char *why, void *opaque)
{
    printf("lost: %s: %s\n", disk != NULL ? disk->name : "all", why);
    fflush(stdout);
}

static void on_answered(uint64_t number, bool known, void *opaque)
{
    printf("%s\n", known ? "known" : "not known");
    fflush(stdout);
}

static const FlSnapshotWatcher watcher = {.lost = on_lost, .answered = on_answered};

static void answer(bool ok, GError *error)
{
    if (ok)
        puts("ok");
    else
        printf("%s: %s\n", error->code == FL_ERROR_LEFT ? "left" : "failed", error->message);
    g_clear_error(&error);
}

static void obey(FlSnapshot *backup)
{
    char line[64];

    while (fgets(line, sizeof line, stdin) != NULL) {
        GError *error = NULL;

        g_strchomp(line);
        if (g_str_equal(line, "commit")) {
            bool ok = fl_snapshot_commit(backup, &error);
            answer(ok, error);
        } else if (g_str_equal(line, "abort")) {
            bool ok = fl_snapshot_abort(backup, &error);
            answer(ok, error);
        } else if (g_str_equal(line, "scratch")) {
            uint64_t used = 0, limit = 0;
            fl_snapshot_scratch_use(backup, g_ptr_array_index(fl_snapshot_disks(backup), 0), &used,
                                    &limit);
            printf("%" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT "\n", used, limit);
        } else if (g_str_equal(line, "ask")) {
            fl_snapshot_ask(backup); /* answered by the session's thread */
        } else {
            return;
        }
        fflush(stdout);
    }
}

static int fail(GError *error)
{
    int status = fl_error_exit_status(error);

    fprintf(stderr, "%s\n", error->message);
    g_error_free(error);
    return status;
}

int main(int argc, char **argv)
{
    gboolean recover = FALSE, full = FALSE, optional = FALSE;
    int freeze = 0, timeout = 0;
    g_auto(GStrv) disks = NULL;
    g_autofree char *since = NULL, *series = NULL, *scratch = NULL, *agent = NULL, *nbd = NULL;
    const GOptionEntry entries[] = {
        {"recover", 0, 0, G_OPTION_ARG_NONE, &recover, NULL, NULL},
        {"full", 0, 0, G_OPTION_ARG_NONE, &full, NULL, NULL},
        {"agent-optional", 0, 0, G_OPTION_ARG_NONE, &optional, NULL, NULL},
        {"freeze-timeout", 0, 0, G_OPTION_ARG_INT, &freeze, NULL, NULL},
        {"timeout", 0, 0, G_OPTION_ARG_INT, &timeout, NULL, NULL},
        {"disk", 0, 0, G_OPTION_ARG_STRING_ARRAY, &disks, NULL, NULL},
        {"since", 0, 0, G_OPTION_ARG_STRING, &since, NULL, NULL},
        {"series", 0, 0, G_OPTION_ARG_STRING, &series, NULL, NULL},
        {"scratch", 0, 0, G_OPTION_ARG_FILENAME, &scratch, NULL, NULL},
        {"agent", 0, 0, G_OPTION_ARG_FILENAME, &agent, NULL, NULL},
        {"nbd", 0, 0, G_OPTION_ARG_STRING, &nbd, NULL, NULL},
        {NULL},
    };
    g_autoptr(GOptionContext) context = g_option_context_new("SOURCE");
    g_autoptr(FlSnapshot) backup = NULL;
    g_autoptr(GPtrArray) values =
        g_ptr_array_new_with_free_func((GDestroyNotify)fl_source_value_free);
    FlSnapshotOptions options;
    GError *error = NULL;

    signal(SIGPIPE, SIG_IGN);
    g_option_context_add_main_entries(context, entries, NULL);
    if (!g_option_context_parse(context, &argc, &argv, &error))
        return fail(error);
    if (argc != 2)
        return FL_ERROR_USAGE;
    if ((since != NULL &&
         !fl_source_option_give(values, fl_providers_option("since"), since, &error)) ||
        (nbd != NULL && !fl_source_option_give(values, fl_providers_option("nbd"), nbd, &error)))
        return fail(error);
    options = (FlSnapshotOptions){
        .source = argv[1],
        .disks = (const char *const *)disks,
        .series = series,
        .scratch = scratch,
        .agent = agent,
        .values = values,
        .full = full,
        .agent_optional = optional,
        .freeze_timeout = (unsigned)freeze,
        .timeout = (unsigned)timeout,
    };

    if (recover) {
        g_autofree char *report = NULL;
        if (!fl_snapshot_recover(&options, &report, &error))
            return fail(error);
        puts(report);
        return 0;
    }
    backup = fl_snapshot_begin(&options, &error);
    if (backup == NULL)
        return fail(error);
    print_snapshot(backup);
    fflush(stdout);
    fl_snapshot_watch(backup, &watcher, NULL);
    obey(backup);
    return 0;
}
