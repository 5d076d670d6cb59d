/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The command line. */
#include "app/options.h"

#include <string.h>
#include <unistd.h>

/* Splits LINE at blanks. */
static FlOptions *parse(const char *line, GError **error)
{
    g_autofree char *all = g_strconcat("fleecefs ", line, NULL);
    g_auto(GStrv) argv = g_strsplit(*line != '\0' ? all : "fleecefs", " ", -1);

    return fl_options_parse(argv, error);
}

static const FlSourceSpec *source(const FlOptions *options, guint i)
{
    g_assert_cmpuint(i, <, options->sources->len);
    return options->sources->pdata[i];
}

static void test_defaults(void)
{
    g_autoptr(FlOptions) options = parse("nbd://h /m", NULL);

    g_assert_nonnull(options);
    g_assert_cmpint(options->command, ==, FL_COMMAND_MOUNT);
    g_assert_cmpstr(source(options, 0)->text, ==, "nbd://h");
    g_assert_null(source(options, 0)->name);
    g_assert_cmpuint(options->sources->len, ==, 1);
    g_assert_cmpstr(options->mountpoint, ==, "/m");
    g_assert_cmpuint(options->uid, ==, getuid());
    g_assert_cmpuint(options->disk.connections, ==, 4);
    g_assert_cmpuint(options->view.cache, ==, 64 << 20);
    g_assert_cmpint(options->sandbox, ==, FL_SANDBOX_MODE_ON);
    g_assert_false(options->foreground || options->debug || options->full || options->force);
    g_assert_null(options->fuse->pdata[0]);
    g_assert_null(options->help);
}

/* Options may be words, may follow the sources, or be in a list; the last one wins. */
static void test_spellings(void)
{
    static const char *const lines[] = {
        "--readahead=1M --full --scratch=/s qmp:q /m",
        "--readahead 1M --full --scratch /s qmp:q /m",
        "qmp:q /m -o readahead=1M,full,scratch=/s",
        "qmp:q /m -oreadahead=1M -o full,scratch=/s",
        "qmp:q --full /m -o readahead=1M,scratch=/s",
        "--full -o readahead=9M,readahead=1M,scratch=/s -- qmp:q /m",
    };

    for (size_t i = 0; i < G_N_ELEMENTS(lines); i++) {
        g_autoptr(FlOptions) options = parse(lines[i], NULL);

        g_assert_nonnull(options);
        g_assert_cmpuint(options->view.readahead, ==, 1 << 20);
        g_assert_true(options->full);
        g_assert_cmpstr(options->scratch, ==, "/s");
        g_assert_cmpuint(options->sources->len, ==, 1);
        g_assert_cmpstr(options->mountpoint, ==, "/m");
    }
}

static void test_flags(void)
{
    g_autofree char *here = g_get_current_dir();
    g_autofree char *pidfile = g_build_filename(here, "p", NULL);
    g_autofree char *mountpoint = g_build_filename(here, "m", NULL);
    g_autoptr(FlOptions) options = parse("-vdP p -C7 a=b/c m", NULL);
    g_autoptr(FlOptions) listed = parse("s m -o debug", NULL);

    g_assert_true(options->verbose && options->debug && options->foreground);
    g_assert_cmpstr(options->pidfile, ==, pidfile);
    g_assert_cmpstr(options->mountpoint, ==, mountpoint);
    g_assert_cmpuint(options->disk.connections, ==, 7);
    g_assert_cmpstr(source(options, 0)->name, ==, "a");
    g_assert_cmpstr(source(options, 0)->text, ==, "b/c");
    g_assert_true(listed->debug && listed->foreground && !listed->verbose);
}

/* Passes options of FUSE on, and ignores those of mount(8). */
static void test_fuse(void)
{
    g_autoptr(FlOptions) options =
        parse("s m -o ro,noauto,allow_other,x-systemd.automount,max_read=4096", NULL);

    g_assert_cmpuint(options->fuse->len, ==, 3);
    g_assert_cmpstr(options->fuse->pdata[0], ==, "allow_other");
    g_assert_cmpstr(options->fuse->pdata[1], ==, "max_read=4096");
    g_assert_null(options->fuse->pdata[2]);
}

/* Words between brackets are not parsed. */
static void test_servers(void)
{
    g_autoptr(FlOptions) options =
        parse("[ nbdkit -f --commit -- x ] --full qmp:q a=[ s -o ] -- b=[ t ] -m", NULL);

    g_assert_nonnull(options);
    g_assert_cmpint(options->command, ==, FL_COMMAND_MOUNT);
    g_assert_true(options->full);
    g_assert_cmpuint(options->sources->len, ==, 4);
    g_assert_cmpuint(g_strv_length(source(options, 0)->argv), ==, 5);
    g_assert_cmpstr(source(options, 0)->argv[2], ==, "--commit");
    g_assert_cmpstr(source(options, 1)->text, ==, "qmp:q");
    g_assert_cmpstr(source(options, 2)->name, ==, "a");
    g_assert_cmpstr(source(options, 2)->argv[1], ==, "-o");
    g_assert_cmpstr(source(options, 3)->name, ==, "b");
    g_assert_true(g_str_has_suffix(options->mountpoint, "/-m"));
}

static void test_commands(void)
{
    static const struct {
        const char *line;
        FlCommand command;
        const char *mountpoint;
        guint sources;
        bool json;
    } cases[] = {
        {"--status /m", FL_COMMAND_STATUS, "/m", 0, false},
        {"--status=json /m", FL_COMMAND_STATUS, "/m", 0, true},
        {"/m --commit --force", FL_COMMAND_COMMIT, "/m", 0, false},
        {"--abort /m", FL_COMMAND_ABORT, "/m", 0, false},
        {"--list=json", FL_COMMAND_LIST, NULL, 0, true},
        {"--recover qmp:q", FL_COMMAND_RECOVER, NULL, 1, false},
        {"--forget x.qcow2", FL_COMMAND_FORGET, NULL, 1, false},
        {"-v -d --status /m", FL_COMMAND_STATUS, "/m", 0, false},
        {"--recover -o timeout=2,scratch=/x,agent=/a,nbd=nbd://h qmp:q", FL_COMMAND_RECOVER, NULL,
         1, false},
        {"--forget --series=week --format=raw x", FL_COMMAND_FORGET, NULL, 1, false},
        {"--cache=1M --full --help", FL_COMMAND_HELP, NULL, 0, false},
        {"-h", FL_COMMAND_HELP, NULL, 0, false},
        {"--version", FL_COMMAND_VERSION, NULL, 0, false},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(FlOptions) options = parse(cases[i].line, NULL);

        g_assert_nonnull(options);
        g_assert_cmpint(options->command, ==, cases[i].command);
        g_assert_cmpstr(options->mountpoint, ==, cases[i].mountpoint);
        g_assert_cmpuint(options->sources->len, ==, cases[i].sources);
        g_assert_cmpint(options->json, ==, cases[i].json);
    }
}

/* Options of kinds of sources and of providers. */
static void test_values(void)
{
    g_autoptr(FlOptions) options = parse("--format=raw x qmp:q m -o nbd=nbd://a,nbd=nbd://b", NULL);

    g_assert_nonnull(options);
    g_assert_cmpstr(fl_source_value(options->values, "format"), ==, "raw");
    g_assert_cmpstr(fl_source_value(options->values, "nbd"), ==, "nbd://b");
    g_assert_null(fl_source_value(options->values, "since"));
    g_assert_cmpstr(options->snapshot_option, ==, "nbd");
}

static void test_refusals(void)
{
    static const char *const cases[][2] = {
        {"", "no source and no mount point"},
        {"s", "no mount point"},
        {"s [ t ]", "no mount point"},
        {"[ t m", "'[' without ']'"},
        {"[ ] m", "no server command between"},
        {"--unknown s m", "unknown option --unknown"},
        {"-x s m", "unknown option -x"},
        {"s m -o unknown=1", "unknown option 'unknown=1'"},
        {"s m -o foreground", "unknown option 'foreground'"},
        {"s m -o", "option option needs a value"},
        {"s m --cache", "option cache needs a value: cache=SIZE"},
        {"s m -o cache", "option cache needs a value: cache=SIZE"},
        {"s m --commit=x", "option commit takes no value"},
        {"qmp:q m -o full=x", "option full takes no value"},
        {"s m -o cache=x", "option cache: "},
        {"s m -o timeout=0", "option timeout: a timeout of 0 seconds"},
        {"s m -C 65", "option connections: '65' is not"},
        {"s m -o sandbox=maybe", "not on, require or off"},
        {"s m -o split=3M", "option split: "},
        {"s m -o backing=", "the name of the backing file is empty"},
        {"qmp:q m -o disk=a::b", "empty name"},
        {"qmp:q m -o nbd=x", "option nbd: 'x' is not an NBD URI"},
        {"s m --full", "option full applies to snapshots of VMs, but no source is qmp:PATH"},
        {"s m -o nbd=nbd://h", "option nbd applies to snapshots of VMs"},
        {"nbd://h m --format=raw", "option format applies to image files, but no source is one"},
        {"qmp:q m -o format=raw", "option format applies to image files"},
        {"[ s a ] m -o format=raw", "option format applies to image files"},
        {"--status", "give exactly one mount point"},
        {"--commit a b", "give exactly one mount point"},
        {"--recover", "give one source"},
        {"--forget a b", "give one source"},
        {"--commit --abort m", "give only one of"},
        {"--status=xml m", "or --status=json for JSON"},
        {"--list m", "--list takes no argument but =json, not 'm'"},
        {"--watch s m", "--watch requires --status"},
        {"--status -o cache=1M m", "option cache has an effect only when mounting: leave it out"},
        {"--commit --series=week m", "option series has an effect only when mounting, and with"},
        {"--abort -f m", "option foreground has an effect only"},
        {"--list --pidfile=p", "option pidfile has an effect only"},
        {"--status -o allow_other m", "option allow_other has an effect only"},
        {"--status --format=raw m", "option format has an effect only when mounting, and with"},
        {"--rate=1M --cache=1M s", "leave it out, or give SOURCE and MOUNTPOINT"},
        {"--forget -o disk=vda qmp:q",
         "option disk has an effect only when mounting: leave it out"},
        {"--recover --full qmp:q", "option full has an effect only"},
    };

    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        g_autoptr(FlOptions) options = parse(cases[i][0], &error);

        g_test_message("%s", cases[i][0]);
        g_assert_null(options);
        g_assert_error(error, FL_ERROR, FL_ERROR_USAGE);
        g_test_message("%s", error->message);
        g_assert_nonnull(strstr(error->message, cases[i][1]));
    }
}

/* Each option has exactly one line, in one group. */
static void test_help(void)
{
    g_autoptr(FlOptions) options = parse("--help", NULL);
    static const char *const expected[] = {"\nOptions:\n  -f, --foreground ",
                                           "\nSnapshots of VMs:\n      --series=NAME ",
                                           "\n      --format=FMT ", "\n      --nbd=URI "};
    g_auto(GStrv) lines = g_strsplit(options->help, "\n", -1);

    for (size_t i = 0; i < G_N_ELEMENTS(expected); i++)
        g_assert_nonnull(strstr(options->help, expected[i]));
    for (char **line = lines; *line != NULL; line++)
        g_assert_cmpuint(strlen(*line), <=, 80);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/options/defaults", test_defaults);
    g_test_add_func("/options/spellings", test_spellings);
    g_test_add_func("/options/flags", test_flags);
    g_test_add_func("/options/fuse", test_fuse);
    g_test_add_func("/options/servers", test_servers);
    g_test_add_func("/options/commands", test_commands);
    g_test_add_func("/options/values", test_values);
    g_test_add_func("/options/refusals", test_refusals);
    g_test_add_func("/options/help", test_help);
    return g_test_run();
}
