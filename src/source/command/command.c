/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source/command/command.h"

#include "source/kind.h"
#include "source/nbd/nbd.h"

#include <signal.h>

typedef struct {
    FlSource source;  /* first; on top of the server's NBD source */
    FlServer *server; /* NULL once closed */
} CommandSource;

FlServer *fl_server_new_command(const char *const *argv, GError **error)
{
    /* Not SIGKILL: a server may have temporary files to remove. */
    FlServerSpec spec = {.argv = argv, .extra_fd = -1, .activation = true, .death_signal = SIGTERM};

    if (argv[0] == NULL) {
        fl_fail_usage(error, "[ ] is empty: a command is needed between the brackets");
        return NULL;
    }
    return fl_server_new(&spec, error);
}

static GPtrArray *command_exports(FlSource *source, const char *name, const FlWait *wait,
                                  GError **error)
{
    FlServer *server = ((CommandSource *)source)->server;
    g_autoptr(GError) why = NULL;
    GPtrArray *exports = fl_source_exports(source->below, name, wait, &why);

    if (exports == NULL) {
        /* The message of a server that failed to start is more specific. */
        if (fl_server_check(server, FL_SERVER_CHECK_MS, error))
            g_propagate_error(error, g_steal_pointer(&why));
        else
            g_prefix_error(error,
                           "%s does not serve NBD on the socket that it is given (systemd "
                           "socket activation): ",
                           fl_source_label(source));
        return NULL;
    }
    /* The server may exit once its last client disconnects. */
    if (exports->len == 1)
        ((FlExportInfo *)exports->pdata[0])->ends_with_last = true;
    return exports;
}

static void command_allow(const FlSource *source, FlSandbox *sandbox)
{
    fl_server_allow(((const CommandSource *)source)->server, sandbox);
}

static void command_close(FlSource *source)
{
    g_clear_pointer(&((CommandSource *)source)->server, fl_server_free);
}

static const FlSourceOps command_ops = {
    .exports = command_exports,
    .allow = command_allow,
    .close = command_close,
    .clear = command_close,
};

static bool is_command(const FlSourceSpec *spec)
{
    return spec->argv != NULL;
}

static FlSource *open_command(const FlSourceSpec *spec, const FlSourceParams *params,
                              GError **error)
{
    FlServer *server = fl_server_new_command((const char *const *)spec->argv, error);
    g_autofree char *label = NULL;
    FlSource *source;

    if (server == NULL)
        return NULL;
    label = g_strdup_printf("[ %s ]", spec->argv[0]);
    source =
        fl_source_alloc(sizeof(CommandSource), &command_ops, label,
                        fl_source_nbd_new_socket(fl_server_socket(server), label, params->budget));
    ((CommandSource *)source)->server = server;
    return source;
}

static char *command_label(const FlSourceSpec *spec)
{
    return g_strdup(spec->argv[0]);
}

const FlSourceKind fl_source_kind_command = {
    .is = is_command, .open = open_command, .label = command_label};
