/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Names, sizes, URIs and command lines: the input is a command line, one word per line. */
#include "source/nbd/nbd.h"
#include "fuzz.h"
#include "app/options.h"
#include "util/name.h"
#include "util/size.h"

#include <string.h>

static void check_name(const char *name)
{
    g_autofree char *safe = fl_name_encode(name);

    g_assert_cmpuint(strlen(safe), >, 0);
    g_assert_cmpuint(strlen(safe), <=, 255);
    g_assert_true(g_utf8_validate(safe, -1, NULL));
    g_assert_null(strchr(safe, '/'));
    g_assert_true(safe[0] != '.');
    for (const char *p = safe; *p != '\0'; p++)
        g_assert_false(g_ascii_iscntrl(*p));
}

static void check_uri(const char *uri)
{
    g_autoptr(FlSource) source = fl_source_nbd_new_uri(uri, NULL);
    g_autoptr(GUri) label = g_uri_parse(fl_source_label(source), G_URI_FLAGS_NONE, NULL);

    g_assert_true(label == NULL || g_uri_get_userinfo(label) == NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *text = g_strndup((const char *)data, size);
    g_auto(GStrv) words = g_strsplit(text, "\n", 32);
    g_autoptr(GPtrArray) argv = g_ptr_array_new();
    g_autoptr(FlOptions) options = NULL;
    g_autoptr(GError) error = NULL;

    g_ptr_array_add(argv, (char *)"fleecefs");
    for (char **word = words; *word != NULL; word++) {
        uint64_t bytes;
        unsigned seconds;

        check_name(*word);
        check_uri(*word);
        fl_size_parse(*word, &bytes, NULL);
        fl_seconds_parse(*word, &seconds, NULL);
        g_ptr_array_add(argv, *word);
    }
    g_ptr_array_add(argv, NULL);
    options = fl_options_parse((char **)argv->pdata, &error);
    g_assert_true((options != NULL) == (error == NULL));
    return 0;
}
