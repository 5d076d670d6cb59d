/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "snapshot/piece-clock.h"

#include "snapshot/journal.h"
#include "util/name.h"

#include <glib/gstdio.h>
#include <string.h>

#define TITLE "fleecefs pieces-clock 1\n"
/* The end of the year 9999, the latest time supported. */
#define SECOND_MAX G_GINT64_CONSTANT(253402300799)
/* A temporary file this old, in seconds, has no writer any more. */
#define UNFINISHED_SECONDS 60
/* Stands for a time that was never recorded. */
#define NEVER G_GINT64_CONSTANT(-1)

typedef struct {
    char *state;  /* the state that was shown with SHOWN; NULL if none */
    gint64 shown; /* in seconds */
    gint64 last;  /* the latest second shown or seen on the host's clock */
} Clock;

static void clock_clear(Clock *clock)
{
    g_free(clock->state);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(Clock, clock_clear)

static char *path_of(const char *source, GError **error)
{
    g_autofree char *directory = fl_state_directory(error);

    return directory != NULL ? g_strdup_printf("%s/pieces-clock-%016" G_GINT64_MODIFIER "x",
                                               directory, fl_name_hash(source, NULL))
                             : NULL;
}

/* Returns the number in a line "NAME NUMBER"; NEVER if LINE has another name or is invalid. */
static gint64 number_of(const char *line, const char *name)
{
    gint64 number;

    if (!g_str_has_prefix(line, name) ||
        !g_ascii_string_to_signed(line + strlen(name), 10, 0, SECOND_MAX, &number, NULL))
        return NEVER;
    return number;
}

/* A missing or unreadable file yields an empty clock. */
static Clock load(const char *path)
{
    Clock clock = {.shown = NEVER, .last = NEVER};
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;

    if (!g_file_get_contents(path, &text, NULL, NULL) || !g_str_has_prefix(text, TITLE))
        return clock;
    lines = g_strsplit(text + strlen(TITLE), "\n", 4);
    if (g_strv_length(lines) != 4)
        return clock;
    clock.last = number_of(lines[0], "last ");
    clock.shown = number_of(lines[1], "shown ");
    if (clock.shown != NEVER && g_str_has_prefix(lines[2], "state "))
        clock.state = g_strdup(lines[2] + strlen("state "));
    return clock;
}

static bool save(const Clock *clock, const char *path, GError **error)
{
    g_autofree char *text = g_strdup_printf(
        TITLE "last %" G_GINT64_FORMAT "\nshown %" G_GINT64_FORMAT "\nstate %s\n", clock->last,
        MAX(clock->shown, 0), clock->state != NULL ? clock->state : "-");

    return fl_state_write(path, text, -1, error) &&
           fl_state_remove_unfinished(path, UNFINISHED_SECONDS, error);
}

bool fl_piece_clock_next(const char *source, const char *state, gint64 floor, gint64 now,
                         gint64 *second, GError **error)
{
    g_autofree char *path = path_of(source, error);
    g_auto(Clock) clock = {.shown = NEVER, .last = NEVER};
    bool same;

    if (path != NULL)
        clock = load(path);
    floor = MIN(floor, SECOND_MAX);
    same = g_strcmp0(clock.state, state) == 0;
    *second = MAX(*second, MAX(floor, same ? clock.shown - 1 : clock.last) + 1);
    if (path == NULL)
        return false;
    if (same && clock.shown == *second)
        return true;
    g_free(clock.state);
    clock.state = g_strdup(state);
    clock.shown = *second;
    clock.last = MAX(clock.last, MAX(*second, now));
    return save(&clock, path, error);
}

bool fl_piece_clock_end(const char *source, gint64 now, GError **error)
{
    g_autofree char *path = path_of(source, error);
    g_auto(Clock) clock = {.shown = NEVER, .last = NEVER};

    if (path == NULL)
        return false;
    clock = load(path);
    if (clock.last >= now)
        return true;
    clock.last = now;
    return save(&clock, path, error);
}

void fl_piece_clock_forget(const char *source)
{
    g_autofree char *path = path_of(source, NULL);

    if (path != NULL) {
        g_unlink(path);
        fl_state_remove_unfinished(path, 0, NULL);
    }
}
