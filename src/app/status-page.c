/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "app/status-page.h"

#include "qemu/json.h"
#include "util/printable.h"

#include <string.h>

/* With more disks, each gets a table row instead of a paragraph. */
#define DETAILED_MAX 6
/* Column of a field's text. */
#define INDENT 17
/* A bar takes what the line leaves beside "[]  100%  " and the longest figures, so that all bars
 * have the same length. Bars shorter than BAR_MIN are omitted. */
#define BAR_MAX 30
#define BAR_MIN 5
#define FIGURES (10 + 29)
/* Columns of a table row without name and bar, and of the bar. */
#define ROW_COLUMNS 51
#define ROW_BAR     8
#define NAME_MIN    12
/* Percent of the scratch file at which the page warns. */
#define SCRATCH_FULL 80

typedef struct {
    const FlStatusPageOptions *options;
    GString *text;
} Page;

/* Members of status.json; -1 or NULL if missing. */
static gint64 number(JsonObject *object, const char *name)
{
    JsonNode *node = fl_json_value(object, name, G_TYPE_INT64);

    return node != NULL ? json_node_get_int(node) : -1;
}

static const char *string(JsonObject *object, const char *name)
{
    return fl_json_string(object, name);
}

/* Columns of TEXT on a terminal. */
static unsigned width_of(const char *text, gssize length)
{
    const char *end = text + (length < 0 ? (gssize)strlen(text) : length);
    unsigned width = 0;

    for (const char *p = text; p < end; p = g_utf8_next_char(p)) {
        gunichar c = g_utf8_get_char(p);
        width += g_unichar_iszerowidth(c) ? 0 : g_unichar_iswide(c) ? 2 : 1;
    }
    return width;
}

/* Length in bytes of the longest prefix of TEXT that fits into WIDTH columns; at least one
 * character. */
static gssize fitting(const char *text, unsigned width)
{
    const char *p = text;

    while (*p != '\0' && (p == text || width_of(text, g_utf8_next_char(p) - text) <= width))
        p = g_utf8_next_char(p);
    return p - text;
}

static char *size_text(gint64 bytes)
{
    g_autofree char *text = NULL;
    GString *plain;

    if (bytes < 0)
        return g_strdup("-");
    text = g_format_size_full((guint64)bytes, G_FORMAT_SIZE_IEC_UNITS);
    plain = g_string_new(text);
    g_string_replace(plain, "\xc2\xa0", " ", 0); /* no-break space */
    return g_string_free(plain, FALSE);
}

static char *time_text(const char *iso)
{
    g_autoptr(GTimeZone) utc = g_time_zone_new_utc();
    g_autoptr(GDateTime) time = g_date_time_new_from_iso8601(iso, utc);
    g_autoptr(GDateTime) local = time != NULL ? g_date_time_to_local(time) : NULL;

    return local != NULL ? g_date_time_format(local, "%F %T %Z") : fl_printable(iso);
}

/* Adds TEXT, wrapped; continuation lines are indented by INDENT columns, the first line is not. */
static void add_wrapped(Page *page, const char *text, unsigned indent)
{
    unsigned columns = page->options->columns;
    unsigned room = columns > indent + NAME_MIN ? columns - indent : NAME_MIN;

    while (page->options->wrap && width_of(text, -1) > room) {
        gssize fits = fitting(text, room);
        const char *space = g_strrstr_len(text, fits + 1, " ");
        gssize n = space != NULL && space > text ? space - text : fits;

        g_string_append_len(page->text, text, n);
        g_string_append_printf(page->text, "\n%*s", (int)indent, "");
        text += n + (text[n] == ' ');
    }
    g_string_append(page->text, text);
    g_string_append_c(page->text, '\n');
}

/* Adds a field of a disk's paragraph. */
static void add_field(Page *page, const char *name, const char *text)
{
    g_autofree char *safe = fl_printable(text);

    g_string_append_printf(page->text, "  %-*s", INDENT - 2, name);
    add_wrapped(page, safe, INDENT);
}

static void add_string(Page *page, const char *name, const char *text)
{
    if (text != NULL)
        add_field(page, name, text);
}

static void add_formatted(Page *page, const char *name, const char *format, ...)
    G_GNUC_PRINTF(3, 4);
static void add_formatted(Page *page, const char *name, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    add_field(page, name, text);
}

/* "[####----]  50%", with a bar of WIDTH columns (0: none). Less than all never shows as 100%. */
static char *bar_text(gint64 part, gint64 whole, unsigned width)
{
    double ratio = whole > 0 ? CLAMP((double)part / (double)whole, 0, 1) : 1;
    int percent = part >= whole ? 100 : MIN((int)(ratio * 100), 99);
    unsigned full = part >= whole ? width : (unsigned)(ratio * width);
    g_autofree char *done = g_strnfill(full, '#'), *left = g_strnfill(width - full, '-');

    return width > 0 ? g_strdup_printf("[%s%s] %3d%%", done, left, percent)
                     : g_strdup_printf("%3d%%", percent);
}

static void add_progress(Page *page, const char *name, gint64 part, gint64 whole, const char *word)
{
    g_autofree char *have = size_text(part), *all = size_text(whole), *bar = NULL;
    g_autofree char *said = g_strdup_printf("%s of %s %s", have, all, word);
    unsigned room = page->options->columns - MIN(page->options->columns, INDENT + FIGURES);

    if (part < 0 || whole < 0)
        return;
    if (whole == 0) {
        add_field(page, name, "none");
        return;
    }
    bar = bar_text(part, whole, room < BAR_MIN ? 0 : MIN(room, BAR_MAX));
    add_formatted(page, name, "%s  %s", bar, said);
}

static bool is_snapshot(JsonObject *disk)
{
    return string(disk, "restore_point") != NULL;
}

static bool has_failed(JsonObject *disk)
{
    return g_strcmp0(string(disk, "state"), "failed") == 0;
}

static const char *state_text(JsonObject *disk)
{
    if (has_failed(disk))
        return "FAILED";
    /* Opening a further connection does not block reads. */
    if (!fl_json_bool(disk, "connecting") || number(disk, "connections") > 0)
        return number(disk, "errors") > 0 ? "ok, with errors" : "ok";
    return number(disk, "reconnects") > 0 || number(disk, "requests") > 0
               ? "reconnecting: reads wait for the server"
               : "connecting";
}

static void add_failure(Page *page, JsonObject *disk)
{
    const char *why = string(disk, "failure");
    g_autofree char *mountpoint = fl_printable(page->options->mountpoint);

    if (!has_failed(disk))
        return;
    add_string(page, "failure", why);
    if (is_snapshot(disk))
        add_formatted(page, "to do",
                      "fleecefs --abort %s, and back up again: the last restore point "
                      "is kept",
                      mountpoint);
    else
        add_formatted(page, "to do",
                      "its reads fail from now on: fleecefs --abort %s, and mount it "
                      "again",
                      mountpoint);
}

static void add_mode(Page *page, JsonObject *disk)
{
    const char *mode = string(disk, "mode"), *base = string(disk, "base");

    if (mode == NULL)
        return;
    if (base != NULL)
        add_formatted(page, "mode", "%s, since restore point %s", mode, base);
    else
        add_field(page, "mode", mode);
    add_string(page, "restore point", string(disk, "restore_point"));
}

static void add_traffic(Page *page, JsonObject *disk)
{
    g_autofree char *rate = size_text(number(disk, "read_rate"));
    g_autofree char *bytes = size_text(number(disk, "bytes_read"));
    gint64 errors = number(disk, "errors"), reconnects = number(disk, "reconnects");
    gint64 requests = number(disk, "requests_in_flight") + number(disk, "requests_waiting");

    if (number(disk, "read_rate") > 0)
        add_formatted(page, "reading", "%s/s, %s from the server so far", rate, bytes);
    else if (number(disk, "bytes_read") >= 0)
        add_formatted(page, "reading", "idle, %s from the server so far", bytes);
    if (number(disk, "connections") >= 0)
        add_formatted(page, "connections",
                      "%" G_GINT64_FORMAT ", %" G_GINT64_FORMAT " requests in flight",
                      number(disk, "connections"), MAX(requests, 0));
    if (reconnects > 0)
        add_formatted(page, "", "%" G_GINT64_FORMAT " replaced a broken one", reconnects);
    if (has_failed(disk) && errors <= 0)
        add_field(page, "errors", "all reads fail");
    else if (errors > 0)
        add_formatted(page, "errors",
                      "%" G_GINT64_FORMAT " reads refused by the server: see its log", errors);
    else if (errors == 0)
        add_field(page, "errors", "none");
}

static void add_pieces(Page *page, JsonObject *disk)
{
    gint64 changed = number(disk, "pieces_changed"), done = number(disk, "pieces_read");

    if (changed >= 0 && done >= 0)
        add_formatted(page, "pieces",
                      "%" G_GINT64_FORMAT " changed, %" G_GINT64_FORMAT " of them read", changed,
                      done);
}

static void add_scratch(Page *page, JsonObject *disk)
{
    gint64 used = number(disk, "scratch_used"), limit = number(disk, "scratch_limit");

    add_progress(page, "scratch", used, limit, "used");
    if (limit > 0 && used >= limit / 100 * SCRATCH_FULL)
        add_field(page, "", "nearly full: finish before it is full, or the snapshot is lost");
}

static void add_disk(Page *page, JsonObject *disk)
{
    const char *name = string(disk, "name"), *time = string(disk, "point_in_time");
    g_autofree char *size = size_text(number(disk, "size"));
    g_autofree char *shown = fl_printable(name != NULL && *name != '\0' ? name : "default");
    g_autofree char *head = g_strdup_printf("%s: %s, %s", shown, size, state_text(disk));
    g_autofree char *taken = time != NULL ? time_text(time) : NULL;

    g_string_append_c(page->text, '\n');
    add_wrapped(page, head, 2);
    add_failure(page, disk);
    add_string(page, "source", string(disk, "source"));
    add_string(page, "point in time", taken);
    add_mode(page, disk);
    if (number(disk, "data_bytes") < 0)
        add_field(page, "data", "not known yet");
    add_progress(page, "data", number(disk, "data_covered_bytes"), number(disk, "data_bytes"),
                 "read");
    add_progress(page, "dirty", number(disk, "dirty_covered_bytes"), number(disk, "dirty_bytes"),
                 "read");
    add_pieces(page, disk);
    add_traffic(page, disk);
    add_scratch(page, disk);
}

/* Progress relative to what a backup must copy, to what changed, or to the whole disk. */
static char *row_progress(JsonObject *disk, unsigned width)
{
    static const char *const pairs[][2] = {{"covered_bytes", "wanted_bytes"},
                                           {"dirty_covered_bytes", "dirty_bytes"},
                                           {"data_covered_bytes", "data_bytes"}};

    for (guint i = 0; i < G_N_ELEMENTS(pairs); i++) {
        gint64 whole = number(disk, pairs[i][1]);
        if (whole == 0)
            return g_strdup("none");
        if (whole > 0)
            return bar_text(number(disk, pairs[i][0]), whole, width);
    }
    return g_strdup("-");
}

/* Fits TEXT into exactly WIDTH columns. */
static char *column_text(const char *text, unsigned width)
{
    unsigned taken = width_of(text, -1);
    g_autofree char *cut = NULL;

    if (taken <= width)
        return g_strdup_printf("%s%*s", text, (int)(width - taken), "");
    cut = g_strndup(text, (gsize)fitting(text, width - 3));
    return g_strdup_printf("%s...%*s", cut, (int)(width - 3 - width_of(cut, -1)), "");
}

static void add_row(Page *page, JsonObject *disk, unsigned name_width, bool bar)
{
    const char *name = string(disk, "name");
    g_autofree char *safe = fl_printable(name != NULL && *name != '\0' ? name : "default");
    g_autofree char *shown = column_text(safe, name_width);
    g_autofree char *size = size_text(number(disk, "size"));
    g_autofree char *dirty = size_text(number(disk, "dirty_bytes"));
    g_autofree char *bytes = size_text(number(disk, "read_rate"));
    g_autofree char *rate = number(disk, "read_rate") > 0 ? g_strconcat(bytes, "/s", NULL) : NULL;
    g_autofree char *progress = row_progress(disk, bar ? ROW_BAR : 0);
    gint64 errors = number(disk, "errors");

    g_string_append_printf(page->text, "%s  %9s  %9s  %*s  %11s  ", shown, size, dirty,
                           bar ? ROW_BAR + 7 : 4, progress, rate != NULL ? rate : "-");
    if (errors > 0 && !has_failed(disk))
        g_string_append_printf(page->text, "%" G_GINT64_FORMAT " errors\n", errors);
    else
        g_string_append_printf(page->text, "%s\n", has_failed(disk) ? "FAILED" : "ok");
}

/* Whether disk INDEX exists and has this source. */
static bool source_of(JsonArray *disks, guint index, const char *source)
{
    return index < json_array_get_length(disks) &&
           g_strcmp0(string(fl_json_element(disks, index), "source"), source) == 0;
}

/* Adds the disks as a table, followed by a paragraph for each that needs attention. */
static void add_table(Page *page, JsonArray *disks)
{
    unsigned columns = page->options->columns, fixed = ROW_COLUMNS + ROW_BAR + 3;
    bool bar = columns >= fixed + NAME_MIN;
    unsigned room = columns - MIN(columns, bar ? fixed : ROW_COLUMNS);
    unsigned name_width = MAX(room, NAME_MIN);
    g_autofree char *head = column_text("DISK", name_width);
    const char *last = NULL;

    g_string_append_printf(page->text, "\n%s  %9s  %9s  %-*s  %11s  STATE\n", head, "SIZE", "DIRTY",
                           bar ? ROW_BAR + 7 : 4, "READ", "RATE");
    for (guint i = 0; i < json_array_get_length(disks); i++) {
        JsonObject *disk = fl_json_element(disks, i);
        const char *source = string(disk, "source");

        if (source != NULL && g_strcmp0(source, last) != 0 && source_of(disks, i + 1, source)) {
            g_autofree char *safe = fl_printable(source);
            add_wrapped(page, safe, 0);
        }
        last = source;
        add_row(page, disk, name_width, bar);
    }
    for (guint i = 0; i < json_array_get_length(disks); i++) {
        JsonObject *disk = fl_json_element(disks, i);
        if (has_failed(disk))
            add_disk(page, disk);
    }
}

static void add_head(Page *page, JsonObject *status)
{
    const char *since = string(status, "since"), *version = string(status, "version");
    g_autofree char *mountpoint = fl_printable(page->options->mountpoint);
    g_autofree char *release = fl_printable(version != NULL ? version : "");
    g_autofree char *time = time_text(since != NULL ? since : "");
    g_autofree char *cache = size_text(number(status, "cache_bytes"));
    g_autofree char *limit = size_text(number(status, "cache_limit"));
    g_autofree char *memory = size_text(number(status, "memory_bytes"));
    g_autofree char *head =
        g_strdup_printf("%s: fleecefs %s, process %" G_GINT64_FORMAT ", since %s", mountpoint,
                        release, number(status, "pid"), time);
    g_autofree char *second =
        g_strdup_printf("%s of memory, %s of %s of cache", memory, cache, limit);

    add_wrapped(page, head, 2);
    g_string_append(page->text, "  ");
    add_wrapped(page, second, 2);
    if (number(status, "rate_limit") > 0) {
        g_autofree char *most = size_text(number(status, "rate_limit"));
        g_autofree char *third =
            g_strdup_printf("reads limited to %s/s (fleecefs --rate=0 removes the limit)", most);

        g_string_append(page->text, "  ");
        add_wrapped(page, third, 2);
    }
}

/* Adds the next step for snapshots: all of their disks are committed together. */
static void add_advice(Page *page, JsonArray *disks)
{
    g_autofree char *mountpoint = fl_printable(page->options->mountpoint), *text = NULL;
    gint64 missing = 0;
    bool any = false;

    for (guint i = 0; i < json_array_get_length(disks); i++) {
        JsonObject *disk = fl_json_element(disks, i);
        gint64 wanted = number(disk, "wanted_bytes");

        if (!is_snapshot(disk))
            continue;
        if (has_failed(disk) || wanted < 0)
            return;
        any = true;
        missing += wanted - number(disk, "covered_bytes");
    }
    if (!any)
        return;
    if (missing > 0) {
        g_autofree char *size = size_text(missing);
        text = g_strdup_printf("%s must still be read before --commit.", size);
    } else {
        text = g_strdup_printf(
            "Everything was read. When the backup is stored: fleecefs --commit %s", mountpoint);
    }
    g_string_append_c(page->text, '\n');
    add_wrapped(page, text, 0);
}

char *fl_status_page_make(JsonObject *status, const FlStatusPageOptions *options)
{
    Page page = {.options = options, .text = g_string_new(NULL)};
    JsonArray *disks = fl_json_array(status, "exports");

    add_head(&page, status);
    if (disks == NULL)
        return g_string_free(page.text, FALSE);
    if (json_array_get_length(disks) > DETAILED_MAX) {
        add_table(&page, disks);
    } else {
        for (guint i = 0; i < json_array_get_length(disks); i++)
            add_disk(&page, fl_json_element(disks, i));
    }
    add_advice(&page, disks);
    return g_string_free(page.text, FALSE);
}

/* Colours parts of the page with escape sequences (ECMA-48). */
char *fl_status_page_colour(const char *page)
{
    static const struct {
        const char *pattern, *replacement;
    } rules[] = {
        {"FAILED", "\033[1;31m\\0\033[0m"},
        {"(?m)^  (failure|to do)  ", "  \033[31m\\1\033[0m  "},
        {"(?m)(nearly full|reconnecting|with errors|[0-9]+ errors$)", "\033[33m\\0\033[0m"},
        {"(?m)(, |  )(ok)(?=$|,)", "\\1\033[32m\\2\033[0m"},
        {"\\[(#+)", "[\033[32m\\1\033[0m"},
    };
    char *text = g_strdup(page);

    for (size_t i = 0; i < G_N_ELEMENTS(rules); i++) {
        g_autoptr(GRegex) regex = g_regex_new(rules[i].pattern, 0, 0, NULL);
        g_autofree char *before = text;

        text = g_regex_replace(regex, before, -1, 0, rules[i].replacement, 0, NULL);
    }
    return text;
}
