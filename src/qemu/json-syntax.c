/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "qemu/json-syntax.h"

#include <string.h>

typedef struct {
    const char *at, *end;
} Text;

static char peek(const Text *text)
{
    return text->at < text->end ? *text->at : '\0';
}

static bool take(Text *text, char c)
{
    if (text->at == text->end || *text->at != c)
        return false;
    text->at++;
    return true;
}

static bool take_word(Text *text, const char *word)
{
    size_t length = strlen(word);

    if ((size_t)(text->end - text->at) < length || memcmp(text->at, word, length) != 0)
        return false;
    text->at += length;
    return true;
}

static void skip_space(Text *text)
{
    while (take(text, ' ') || take(text, '\t') || take(text, '\n') || take(text, '\r'))
        ;
}

static bool take_digits(Text *text)
{
    const char *start = text->at;

    while (g_ascii_isdigit(peek(text)))
        text->at++;
    return text->at > start;
}

static bool take_number(Text *text)
{
    take(text, '-');
    if (!take(text, '0') && !take_digits(text))
        return false;
    if (take(text, '.') && !take_digits(text))
        return false;
    if (!take(text, 'e') && !take(text, 'E'))
        return true;
    if (!take(text, '+'))
        take(text, '-');
    return take_digits(text);
}

static bool take_unit(Text *text, unsigned *unit)
{
    *unit = 0;
    for (int i = 0; i < 4; i++) {
        int digit = g_ascii_xdigit_value(peek(text));
        if (digit < 0)
            return false;
        *unit = *unit << 4 | (unsigned)digit;
        text->at++;
    }
    return true;
}

/* Takes what follows a backslash. Characters outside the BMP are surrogate pairs. */
static bool take_escape(Text *text)
{
    unsigned high, low;

    if (!take(text, 'u')) {
        char c = peek(text);
        text->at += c != '\0';
        return c != '\0' && strchr("\"\\/bfnrt", c) != NULL;
    }
    if (!take_unit(text, &high))
        return false;
    if (high < 0xd800 || high > 0xdfff)
        return true;
    return high < 0xdc00 && take_word(text, "\\u") && take_unit(text, &low) && low >= 0xdc00 &&
           low <= 0xdfff;
}

static bool take_string(Text *text)
{
    if (!take(text, '"'))
        return false;
    while (!take(text, '"')) {
        if ((unsigned char)peek(text) < ' ')
            return false;
        if (*text->at++ == '\\' && !take_escape(text))
            return false;
    }
    return true;
}

static bool take_scalar(Text *text)
{
    switch (peek(text)) {
    case '"':
        return take_string(text);
    case 't':
        return take_word(text, "true");
    case 'f':
        return take_word(text, "false");
    case 'n':
        return take_word(text, "null");
    default:
        return take_number(text);
    }
}

/* Takes a member's name and the colon after it. */
static bool take_name(Text *text)
{
    skip_space(text);
    if (!take_string(text))
        return false;
    skip_space(text);
    return take(text, ':');
}

/* KINDS is a stack: for each open level, the byte that closes it. */
static bool check(Text *text, GByteArray *kinds, unsigned max_depth)
{
    do {
        char c;

        /* A value, or the beginning of one. */
        skip_space(text);
        c = peek(text);
        if (c == '{' || c == '[') {
            guint8 close = c == '{' ? '}' : ']';
            if (kinds->len >= max_depth)
                return false;
            g_byte_array_append(kinds, &close, 1);
            text->at++;
            skip_space(text);
            if (peek(text) != (char)close) {
                if (c == '{' && !take_name(text))
                    return false;
                continue;
            }
        } else if (!take_scalar(text)) {
            return false;
        }

        /* Levels that end here. */
        for (;;) {
            skip_space(text);
            if (kinds->len == 0 || !take(text, (char)kinds->data[kinds->len - 1]))
                break;
            g_byte_array_set_size(kinds, kinds->len - 1);
        }
        /* The next element. */
        if (kinds->len > 0 &&
            (!take(text, ',') || (kinds->data[kinds->len - 1] == '}' && !take_name(text))))
            return false;
    } while (kinds->len > 0);
    return text->at == text->end;
}

bool fl_json_is_valid(const char *text, gsize length, unsigned max_depth)
{
    g_autoptr(GByteArray) kinds = g_byte_array_new();
    Text rest = {text, text + length};

    return check(&rest, kinds, max_depth);
}
