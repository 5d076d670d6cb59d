/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* --status: prints the status page, once or repeatedly. */
#include "app/client.h"
#include "app/status-page.h"
#include "qemu/json.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* Refresh interval, microseconds. */
#define PAUSE G_USEC_PER_SEC
/* Defaults if the terminal's size is unknown. */
#define COLUMNS 80
#define ROWS    24

/* Escape sequences (ECMA-48): cursor home; clear to the end of the line, of the screen. */
#define HOME       "\033[H"
#define CLEAR_LINE "\033[K"
#define CLEAR_REST "\033[J"

/* Takes the size of the terminal; a file or a pipe gets the default width. */
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

guint fl_client_erring_disks(JsonObject *status)
{
    JsonArray *disks = fl_json_array(status, "exports");
    guint erring = 0;

    for (guint i = 0; i < fl_json_length(disks); i++) {
        JsonObject *disk = fl_json_element(disks, i);

        erring += g_strcmp0(fl_json_string(disk, "state"), "failed") != 0 &&
                  fl_json_int(disk, "errors") > 0;
    }
    return erring;
}

/* The exit status tells scripts whether all reads succeeded. */
static int exit_status_of(JsonObject *status)
{
    return fl_client_failed_disks(status) + fl_client_erring_disks(status) > 0 ? FL_ERROR_FAILED
                                                                               : 0;
}

static JsonObject *parse_status(const char *mountpoint, const char *text)
{
    g_autoptr(GError) error = NULL;
    JsonObject *status = fl_json_parse(text, strlen(text), &error);

    if (status == NULL)
        g_critical("cannot read the status of %s: %s", mountpoint, error->message);
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

/* Overwrites the last page, with at most ROWS lines, so that the terminal does not scroll. */
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
    /* Unmounted: the expected end. */
    if (gone == ENOENT || gone == 0)
        return status;
    fl_client_complain(mountpoint, gone);
    return FL_ERROR_FAILED;
}
