/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lvm-text.h"

#include <string.h>

#define DEPTH_MAX 10
#define NODES_MAX 100000

typedef struct {
    const char *p, *end;
    unsigned nodes;
} Parser;

static FlLvmNode *new_node(Parser *parser, char *name)
{
    FlLvmNode *node = g_new0(FlLvmNode, 1);

    node->name = name;
    parser->nodes++;
    return node;
}

void fl_lvm_node_free(FlLvmNode *node)
{
    if (node == NULL)
        return;
    g_free(node->name);
    g_clear_pointer(&node->children, g_ptr_array_unref);
    g_clear_pointer(&node->values, g_ptr_array_unref);
    g_free(node);
}

static void free_node(gpointer node)
{
    fl_lvm_node_free(node);
}

static void skip_blanks(Parser *parser)
{
    for (; parser->p < parser->end; parser->p++) {
        if (*parser->p == '#') {
            while (parser->p < parser->end && *parser->p != '\n')
                parser->p++;
            if (parser->p == parser->end)
                return;
        } else if (!g_ascii_isspace(*parser->p)) {
            return;
        }
    }
}

/* The next non-blank character; NUL at the end. */
static char peek(Parser *parser)
{
    skip_blanks(parser);
    return parser->p < parser->end ? *parser->p : '\0';
}

static bool take(Parser *parser, char c)
{
    bool there = peek(parser) == c && c != '\0';

    parser->p += there;
    return there;
}

static bool is_word(char c)
{
    return g_ascii_isalnum(c) || (c != '\0' && strchr("_+.-@/", c) != NULL);
}

/* A name or a number; NULL if there is none. */
static char *take_word(Parser *parser)
{
    const char *start;

    if (!is_word(peek(parser)))
        return NULL;
    for (start = parser->p; parser->p < parser->end && is_word(*parser->p);)
        parser->p++;
    return g_strndup(start, (gsize)(parser->p - start));
}

/* A quoted string; NULL if it is unterminated. */
static char *take_string(Parser *parser)
{
    g_autoptr(GString) text = g_string_new(NULL);

    for (parser->p++; parser->p < parser->end; parser->p++) {
        if (*parser->p == '"') {
            parser->p++;
            return g_string_free(g_steal_pointer(&text), FALSE);
        }
        if (*parser->p == '\\' && parser->p + 1 < parser->end)
            parser->p++;
        g_string_append_c(text, *parser->p);
    }
    return NULL;
}

static bool take_value(Parser *parser, FlLvmNode *node)
{
    char *value = peek(parser) == '"' ? take_string(parser) : take_word(parser);

    if (value != NULL)
        g_ptr_array_add(node->values, value);
    return value != NULL && ++parser->nodes < NODES_MAX;
}

static bool take_values(Parser *parser, FlLvmNode *node)
{
    node->values = g_ptr_array_new_with_free_func(g_free);
    if (!take(parser, '['))
        return take_value(parser, node);
    while (!take(parser, ']')) {
        if (!take_value(parser, node))
            return false;
        if (!take(parser, ',') && peek(parser) != ']')
            return false;
    }
    return true;
}

/* Parses SECTION up to its end; DEPTH is its nesting depth. */
static bool take_children(Parser *parser, FlLvmNode *section, unsigned depth)
{
    section->children = g_ptr_array_new_with_free_func(free_node);
    while (peek(parser) != '\0' && *parser->p != '}') {
        char *name = take_word(parser);
        FlLvmNode *node;

        if (name == NULL)
            return false;
        node = new_node(parser, name);
        g_ptr_array_add(section->children, node);
        if (parser->nodes >= NODES_MAX)
            return false;
        if (take(parser, '=')) {
            if (!take_values(parser, node))
                return false;
        } else if (depth == DEPTH_MAX || !take(parser, '{') ||
                   !take_children(parser, node, depth + 1) || !take(parser, '}')) {
            return false;
        }
    }
    return true;
}

FlLvmNode *fl_lvm_text_parse(const char *text, gsize length, GError **error)
{
    Parser parser = {.p = text, .end = text + strnlen(text, length)};
    g_autoptr(FlLvmNode) top = new_node(&parser, NULL);

    if (take_children(&parser, top, 0) && peek(&parser) == '\0')
        return g_steal_pointer(&top);
    fl_fail(error, "its metadata is invalid");
    return NULL;
}

static const FlLvmNode *find(const FlLvmNode *section, const char *name)
{
    const GPtrArray *children = section != NULL ? section->children : NULL;

    for (guint i = 0; children != NULL && i < children->len; i++) {
        const FlLvmNode *node = children->pdata[i];
        if (g_str_equal(node->name, name))
            return node;
    }
    return NULL;
}

const FlLvmNode *fl_lvm_section(const FlLvmNode *section, const char *name)
{
    const FlLvmNode *node = find(section, name);

    return node != NULL && node->children != NULL ? node : NULL;
}

const char *fl_lvm_string(const FlLvmNode *section, const char *name)
{
    const FlLvmNode *node = find(section, name);

    return node != NULL && node->values != NULL && node->values->len == 1 ? node->values->pdata[0]
                                                                          : NULL;
}

bool fl_lvm_number(const FlLvmNode *section, const char *name, uint64_t most, uint64_t *number)
{
    const char *text = fl_lvm_string(section, name);

    return text != NULL && g_ascii_string_to_unsigned(text, 10, 0, most, number, NULL);
}

bool fl_lvm_list_has(const FlLvmNode *section, const char *name, const char *value)
{
    const FlLvmNode *node = find(section, name);

    for (guint i = 0; node != NULL && node->values != NULL && i < node->values->len; i++) {
        if (g_str_equal(node->values->pdata[i], value))
            return true;
    }
    return false;
}
