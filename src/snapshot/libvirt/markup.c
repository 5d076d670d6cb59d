/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "snapshot/libvirt/markup.h"

#include <string.h>

typedef struct {
    const FlMarkupReader *reader;
    GString *path;
    GString *text; /* of the current element */
} Reading;

static void enter(GString *path, const char *name)
{
    if (path->len > 0)
        g_string_append_c(path, '/');
    g_string_append(path, name);
}

static void leave(GString *path, const char *name)
{
    gsize length = strlen(name);

    g_string_truncate(path, path->len > length ? path->len - length - 1 : 0);
}

static void read_start(GMarkupParseContext *context, const char *name, const char **names,
                       const char **values, gpointer data, GError **error)
{
    Reading *reading = data;

    enter(reading->path, name);
    g_string_truncate(reading->text, 0);
    if (reading->reader->start != NULL)
        reading->reader->start(reading->reader->object, reading->path->str, names, values);
}

static void read_end(GMarkupParseContext *context, const char *name, gpointer data, GError **error)
{
    Reading *reading = data;

    if (reading->reader->end != NULL)
        reading->reader->end(reading->reader->object, reading->path->str, reading->text->str);
    g_string_truncate(reading->text, 0);
    leave(reading->path, name);
}

static void read_text(GMarkupParseContext *context, const char *text, gsize length, gpointer data,
                      GError **error)
{
    g_string_append_len(((Reading *)data)->text, text, (gssize)length);
}

static bool parse(const GMarkupParser *parser, gpointer data, const char *xml, GError **error)
{
    g_autoptr(GMarkupParseContext) context =
        g_markup_parse_context_new(parser, G_MARKUP_TREAT_CDATA_AS_TEXT, data, NULL);
    g_autoptr(GError) failure = NULL;

    return (g_markup_parse_context_parse(context, xml, -1, &failure) &&
            g_markup_parse_context_end_parse(context, &failure)) ||
           fl_fail(error, "libvirt sent invalid XML: %s", failure->message);
}

bool fl_markup_read(const FlMarkupReader *reader, const char *xml, GError **error)
{
    static const GMarkupParser parser = {
        .start_element = read_start, .end_element = read_end, .text = read_text};
    g_autoptr(GString) path = g_string_new(NULL);
    g_autoptr(GString) text = g_string_new(NULL);

    return parse(&parser, &(Reading){.reader = reader, .path = path, .text = text}, xml, error);
}

const char *fl_markup_attribute(const char **names, const char **values, const char *name)
{
    for (; *names != NULL; names++, values++) {
        if (g_str_equal(*names, name))
            return *values;
    }
    return NULL;
}

typedef struct {
    GString *path, *xml;
    const char *wanted, *text; /* arguments of fl_markup_replace_text() */
} Copying;

/* Writes whitespace that parsers would normalize as character references. */
static void add_escaped(GString *xml, const char *text, gsize length, const char *references)
{
    g_autofree char *escaped = g_markup_escape_text(text, (gssize)length);

    for (const char *c = escaped; *c != '\0'; c++) {
        if (strchr(references, *c) != NULL)
            g_string_append_printf(xml, "&#%d;", *c);
        else
            g_string_append_c(xml, *c);
    }
}

static void copy_start(GMarkupParseContext *context, const char *name, const char **names,
                       const char **values, gpointer data, GError **error)
{
    Copying *copying = data;

    enter(copying->path, name);
    g_string_append_printf(copying->xml, "<%s", name);
    for (; *names != NULL; names++, values++) {
        g_string_append_printf(copying->xml, " %s='", *names);
        add_escaped(copying->xml, *values, strlen(*values), "\t\n\r");
        g_string_append_c(copying->xml, '\'');
    }
    g_string_append_c(copying->xml, '>');
}

static void copy_end(GMarkupParseContext *context, const char *name, gpointer data, GError **error)
{
    Copying *copying = data;

    if (g_str_equal(copying->path->str, copying->wanted))
        add_escaped(copying->xml, copying->text, strlen(copying->text), "\r");
    g_string_append_printf(copying->xml, "</%s>", name);
    leave(copying->path, name);
}

static void copy_text(GMarkupParseContext *context, const char *text, gsize length, gpointer data,
                      GError **error)
{
    Copying *copying = data;

    if (!g_str_equal(copying->path->str, copying->wanted))
        add_escaped(copying->xml, text, length, "\r");
}

/* Copies comments, and whatever precedes the first element. */
static void copy_other(GMarkupParseContext *context, const char *text, gsize length, gpointer data,
                       GError **error)
{
    g_string_append_len(((Copying *)data)->xml, text, (gssize)length);
}

char *fl_markup_replace_text(const char *xml, const char *path, const char *text, GError **error)
{
    static const GMarkupParser parser = {.start_element = copy_start,
                                         .end_element = copy_end,
                                         .text = copy_text,
                                         .passthrough = copy_other};
    g_autoptr(GString) around = g_string_new(NULL);
    g_autoptr(GString) copy = g_string_new(NULL);
    Copying copying = {.path = around, .xml = copy, .wanted = path, .text = text};

    if (!parse(&parser, &copying, xml, error))
        return NULL;
    return g_string_free(g_steal_pointer(&copy), FALSE);
}
