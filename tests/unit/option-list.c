/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Lists of options, and their commas. */
#include "app/option-list.h"

#include <glib.h>

static void test_split(void)
{
    static const struct {
        const char *list, *parts; /* parts: joined by '|' */
    } cases[] = {
        {"", ""},
        {",,", ""},
        {"full", "full"},
        {"full,series=week", "full|series=week"},
        {",full,,uid=0,", "full|uid=0"},
        {"scratch=/a\\,b,full", "scratch=/a,b|full"},
        {"scratch=/a\\\\,full", "scratch=/a\\|full"},
        {"scratch=/a\\\\\\,b", "scratch=/a\\,b"},
        {"scratch=/a\\054b,full", "scratch=/a,b|full"},
        {"scratch=/a\\b", "scratch=/ab"},
        {"scratch=/a\\000\\", "scratch=/a000\\"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_auto(GStrv) parts = fl_option_list_split(cases[i].list);
        g_autofree char *joined = g_strjoinv("|", parts);

        g_assert_cmpstr(joined, ==, cases[i].parts);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/option-list/split", test_split);
    return g_test_run();
}
