/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* --status: the page, once or as it changes. */
#include "app/client.h"
#include "app/status-page.h"
#include "qemu/json.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* Between two pages, in microseconds. */
#define PAUSE G_USEC_PER_SEC
/* Of a terminal that does not say. */
#define COLUMNS 80
#define ROWS    24

/* Escape sequences (ECMA-48): to the first place; clear to the end of a line, and of the screen. */
#define HOME       "\033[H"
#define CLEAR_LINE "\033[K"
#define CLEAR_REST "\033[J"

/* Of the terminal that the page goes to; a page for a file or a pipe is as wide as one usually is.
 */
static FlStatusPageOptions page_options(const char *mountpoint, unsigned *rows)
{
    FlStatusPageOptions options = {.mountpoint = mountpoint, .columns = COLUMNS};
    struct winsize size;

    *rows = 0;
    if (isatty(STDOUT_FILENO)) {
        options.wrap = true;
        *rows = ROWS;
        if (ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) {
            options.columns = size.ws_col;
            *rows = size.ws_row > 0 ? size.ws_row : ROWS;
        }
    }
    return options;
}

bool fl_client_wants_colour(void)
{
    const char *term = g_getenv("TERM"), *no_colour = g_getenv("NO_COLOR");

    return isatty(STDOUT_FILENO) && term != NULL && !g_str_equal(term, "dumb") &&
           (no_colour == NULL || *no_colour == '\0');
}

guint fl_client_failed_disks(JsonObject *status)
{
    JsonArray *disks = fl_json_array(status, "exports");
    guint failed = 0;

    for (guint i = 0; i < fl_json_length(disks); i++)
        failed += g_strcmp0(fl_json_string(fl_json_element(disks, i), "state"), "failed") == 0;
    return failed;
}

/* Scripts ask whether a disk has failed. */
static int exit_status_of(JsonObject *status)
{
    return fl_client_failed_disks(status) > 0 ? FL_ERROR_FAILED : 0;
}

static JsonObject *parse_status(const char *mountpoint, const char *text)
{
    g_autoptr(GError) error = NULL;
    JsonObject *status = fl_json_parse(text, strlen(text), &error);

    if (status == NULL)
        g_critical("the status of %s cannot be read: %s", mountpoint, error->message);
    return status;
}

int fl_client_status(const char *mountpoint, bool json)
{
    g_autofree char *text = NULL, *page = NULL;
    g_autoptr(JsonObject) status = NULL;
    FlStatusPageOptions options;
    unsigned rows;

    text = fl_client_ask_loudly(mountpoint);
    if (text == NULL || (status = parse_status(mountpoint, text)) == NULL)
        return FL_ERROR_FAILED;
    if (json) {
        fputs(text, stdout);
        return exit_status_of(status);
    }
    options = page_options(mountpoint, &rows);
    page = fl_status_page_make(status, &options);
    fputs(page, stdout);
    return exit_status_of(status);
}

/* Over the last page of a terminal with ROWS lines: no more than fit, so that nothing scrolls. */
static void redraw(const char *page, unsigned rows)
{
    g_auto(GStrv) lines = g_strsplit(page, "\n", -1);

    fputs(HOME, stdout);
    for (unsigned i = 0; lines[i] != NULL && i + 1 < rows; i++) {
        fputs(lines[i], stdout);
        fputs(CLEAR_LINE "\n", stdout);
    }
    fputs(CLEAR_REST, stdout);
}

int fl_client_watch(const char *mountpoint)
{
    g_autofree char *text = fl_client_ask_loudly(mountpoint);
    bool colour = fl_client_wants_colour();
    int status = text != NULL ? 0 : FL_ERROR_FAILED, gone = 0;

    while (text != NULL) {
        unsigned rows;
        FlStatusPageOptions options = page_options(mountpoint, &rows);
        g_autoptr(JsonObject) said = parse_status(mountpoint, text);
        g_autofree char *page = NULL;

        if (said == NULL)
            return FL_ERROR_FAILED;
        page = fl_status_page_make(said, &options);
        if (colour) {
            g_autofree char *plain = page;
            page = fl_status_page_colour(plain);
        }
        if (rows > 0)
            redraw(page, rows);
        else
            printf("%s\n", page);
        if (fflush(stdout) != 0)
            return FL_ERROR_FAILED;
        status = exit_status_of(said);
        g_usleep(PAUSE);
        g_clear_pointer(&text, g_free);
        gone = fl_client_ask(mountpoint, &text);
    }
    /* It has been unmounted, which is what somebody was waiting for. */
    if (gone == ENOENT || gone == 0)
        return status;
    fl_client_complain(mountpoint, gone);
    return FL_ERROR_FAILED;
}
