/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "snapshot/qmp/fleece.h"

#include "util/keeper.h"

#include <errno.h>
#include <unistd.h>

/* Milliseconds: a monitor that has another client never sends its greeting. */
#define CONNECT_TIMEOUT 10000

unsigned fl_fleece_timeout(const FlFleece *session)
{
    unsigned seconds = session->backup.options->timeout;

    return (seconds != 0 ? MIN(seconds, 86400) : 30) * 1000;
}

char *fl_fleece_id(const FlFleeceDisk *disk, const char *part)
{
    return g_strdup_printf(FL_FLEECE_PREFIX "%u-%s", disk->index, part);
}

FlFleeceDisk *fl_fleece_find(const FlFleece *session, const char *id, const char *part)
{
    for (guint i = 0; id != NULL && i < session->backup.disks->len; i++) {
        FlFleeceDisk *disk = g_ptr_array_index(session->backup.disks, i);
        g_autofree char *own = fl_fleece_id(disk, part);
        if (g_str_equal(own, id))
            return disk;
    }
    return NULL;
}

bool fl_fleece_do(FlFleece *session, const char *command, JsonNode *args, JsonNode **reply,
                  GError **error, const char *format, ...)
{
    g_autoptr(GError) failure = NULL;
    g_autofree char *subject = NULL;
    va_list list;

    if (session->qmp == NULL) {
        g_clear_pointer(&args, json_node_unref);
        return fl_fail(error, "the connection to QEMU is lost");
    }
    if (fl_qmp_call(session->qmp, command, args, reply, &failure))
        return true;
    va_start(list, format);
    subject = g_strdup_vprintf(format, list);
    va_end(list);
    return fl_fail(error, "%s: %s", subject, failure->message);
}

bool fl_fleece_query_nodes(FlFleece *session, JsonNode **reply, GError **error)
{
    return fl_fleece_do(session, "query-named-block-nodes", fl_qmp_args(fl_qmp_bool("flat", true)),
                        reply, error, "nodes");
}

bool fl_fleece_connect(FlFleece *session, GError **error)
{
    g_clear_pointer(&session->qmp, fl_qmp_free);
    session->qmp =
        fl_qmp_connect(session->monitor, MIN(fl_fleece_timeout(session), CONNECT_TIMEOUT), error);
    if (session->qmp == NULL)
        return false;
    fl_qmp_set_timeout(session->qmp, fl_fleece_timeout(session));
    fl_qmp_set_event_handler(session->qmp, session->on_event, session);
    fl_fleece_note_peer(session);
    return true;
}

bool fl_fleece_await(FlFleece *session, unsigned seen, gint64 deadline, GError **error,
                     const char *format, ...)
{
    /* Milliseconds: some QEMU versions send no event for some changes. */
    static const unsigned interval = 50;
    g_autofree char *words = NULL;
    va_list args;

    if (g_get_monotonic_time() < deadline)
        return session->events != seen || fl_qmp_dispatch(session->qmp, interval, error);
    va_start(args, format);
    words = g_strdup_vprintf(format, args);
    va_end(args);
    return fl_fail(error, "%s", words);
}

bool fl_fleece_listens(const char *path)
{
    int fd = fl_unix_connect(path);

    /* A full backlog (EAGAIN) means somebody listens; any other error might too. */
    if (fd < 0)
        return errno != ECONNREFUSED && errno != ENOENT && errno != ENOTDIR;
    close(fd);
    return true;
}

bool fl_fleece_reach(FlFleece *session, GError **error)
{
    g_autoptr(GError) failure = NULL;

    if (session->gone || (session->qmp != NULL && fl_qmp_dispatch(session->qmp, 0, NULL)) ||
        fl_fleece_connect(session, &failure))
        return true;
    /* A monitor that now serves another client does not mean that QEMU has exited. */
    session->gone = !fl_fleece_listens(session->monitor);
    if (!session->gone)
        g_propagate_error(error, g_steal_pointer(&failure));
    return session->gone;
}
