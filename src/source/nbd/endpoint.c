/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "endpoint.h"

#include "option.h"
#include "tls.h"
#include "util/keeper.h"
#include "wait.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct FlEndpoint {
    char *uri;    /* NULL for a socket */
    int socket;   /* -1 for a URI or path */
    char *path;   /* Unix socket that we connect ourselves; NULL for other URIs */
    char *chosen; /* the export named in the URI, set once connected; atomic */
    char *label;
    FlBudget *budget;

    GMutex lock;             /* protects all fields below */
    char *only;              /* name of the only export; NULL if not known to be the only one */
    struct nbd_handle *kept; /* an unused connection to it */
};

/* Keeps only the socket from the query of a Unix URI; never user or password. */
static char *label_of_uri(const char *uri)
{
    g_autoptr(GUri) parsed = g_uri_parse(uri, G_URI_FLAGS_NONE, NULL);
    g_autoptr(GHashTable) params = NULL;
    g_autofree char *query = NULL;
    const char *socket = NULL;

    if (parsed == NULL)
        return g_strdup(strchr(uri, '@') != NULL ? "the NBD URI" : uri);
    if (g_uri_get_query(parsed) != NULL)
        params = g_uri_parse_params(g_uri_get_query(parsed), -1, "&", G_URI_PARAMS_NONE, NULL);
    if (params != NULL)
        socket = g_hash_table_lookup(params, "socket");
    if (socket != NULL)
        query = g_strconcat("socket=", socket, NULL);
    return g_uri_join(G_URI_FLAGS_NONE, g_uri_get_scheme(parsed), NULL, g_uri_get_host(parsed),
                      g_uri_get_port(parsed), g_uri_get_path(parsed), query, NULL);
}

/* Makes the paths in the query of URI absolute: the daemon changes its working directory. */
static char *with_absolute_paths(const char *uri)
{
    g_autoptr(GRegex) relative = g_regex_new(
        "(?<=[?&]socket=|[?&]tls-certificates=|[?&]tls-psk-file=)(?=[^/%&])", G_REGEX_RAW, 0, NULL);
    g_autofree char *folder = g_get_current_dir();
    g_autofree char *escaped = g_uri_escape_bytes((const guint8 *)folder, strlen(folder), "/");
    g_autofree char *prefix = g_strconcat(escaped, "/", NULL);

    return g_regex_replace_literal(relative, uri, -1, 0, prefix, 0, NULL);
}

/* Returns the socket's path of a nbd+unix URI, without TLS; connecting needs nothing else. */
static char *path_of_uri(const char *uri)
{
    g_autoptr(GUri) parsed = g_uri_parse(uri, G_URI_FLAGS_NONE, NULL);
    g_autoptr(GHashTable) params = NULL;

    if (parsed == NULL || !g_str_equal(g_uri_get_scheme(parsed), "nbd+unix") ||
        g_uri_get_query(parsed) == NULL)
        return NULL;
    params = g_uri_parse_params(g_uri_get_query(parsed), -1, "&", G_URI_PARAMS_NONE, NULL);
    return params != NULL ? g_strdup(g_hash_table_lookup(params, "socket")) : NULL;
}

static FlEndpoint *new_endpoint(FlBudget *budget)
{
    FlEndpoint *endpoint = g_new0(FlEndpoint, 1);

    g_mutex_init(&endpoint->lock);
    endpoint->budget = budget != NULL ? fl_budget_ref(budget) : fl_budget_new(FL_SOURCE_BUDGET);
    return endpoint;
}

FlEndpoint *fl_endpoint_new_uri(const char *uri, FlBudget *budget)
{
    FlEndpoint *endpoint = new_endpoint(budget);

    endpoint->uri = with_absolute_paths(uri);
    endpoint->socket = -1;
    endpoint->path = path_of_uri(endpoint->uri);
    endpoint->label = label_of_uri(endpoint->uri);
    return endpoint;
}

FlEndpoint *fl_endpoint_new_socket(int fd, const char *label, FlBudget *budget)
{
    FlEndpoint *endpoint = new_endpoint(budget);

    endpoint->socket = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    endpoint->path = g_strdup_printf("/proc/self/fd/%d", endpoint->socket);
    endpoint->label = g_strdup(label);
    return endpoint;
}

FlEndpoint *fl_endpoint_new_path(const char *path, const char *label, FlBudget *budget)
{
    FlEndpoint *endpoint = new_endpoint(budget);

    endpoint->socket = -1;
    endpoint->path = g_strdup(path);
    endpoint->label = g_strdup(label);
    return endpoint;
}

void fl_endpoint_free(FlEndpoint *endpoint)
{
    if (endpoint == NULL)
        return;
    if (endpoint->socket >= 0)
        close(endpoint->socket);
    fl_nbd_close(endpoint->kept);
    g_mutex_clear(&endpoint->lock);
    g_free(endpoint->only);
    g_free(endpoint->uri);
    g_free(endpoint->path);
    free(endpoint->chosen); /* allocated by libnbd */
    g_free(endpoint->label);
    fl_budget_unref(endpoint->budget);
    g_free(endpoint);
}

const char *fl_endpoint_label(const FlEndpoint *endpoint)
{
    return endpoint->label;
}

void fl_endpoint_allow(const FlEndpoint *endpoint, FlSandbox *sandbox)
{
    g_autoptr(GUri) parsed =
        endpoint->uri != NULL ? g_uri_parse(endpoint->uri, G_URI_FLAGS_NONE, NULL) : NULL;

    if (endpoint->path != NULL) {
        fl_sandbox_allow_socket(sandbox, endpoint->path);
        return;
    }
    if (g_str_has_prefix(endpoint->uri, "nbds+unix:"))
        fl_sandbox_allow_sockets(sandbox);
    if (parsed == NULL || g_strcmp0(g_uri_get_host(parsed), "") != 0)
        fl_sandbox_allow_names(sandbox);
    fl_tls_allow(sandbox, endpoint->uri);
}

FlBudget *fl_endpoint_budget(const FlEndpoint *endpoint)
{
    return endpoint->budget;
}

static bool is_connected(struct nbd_handle *nbd, void *opaque)
{
    return nbd_aio_is_negotiating(nbd) || nbd_aio_is_ready(nbd);
}

/* Explains ERROR; MESSAGE is the lower layer's text, used by default. */
static const char *why_not(int error, const char *message)
{
    /* The message has the URI, which may have a password. */
    if (strstr(message, "unable to parse URI") != NULL)
        return "it is not a valid URI; write a blank as %20, and other special characters likewise";
    if (strstr(message, "getaddrinfo: ") != NULL)
        return "the name of the host or the port cannot be resolved; check them";
    if (error == ENOENT)
        return "its socket does not exist; check that the server runs";
    return error == ECONNREFUSED ? "connection refused; check that the server runs" : message;
}

/* The first time, libnbd connects to the URI and reports how it parsed it. Later fl_unix_connect()
 * connects the socket, since the sandbox may allow no other way. */
static int start_connecting(FlEndpoint *endpoint, struct nbd_handle *nbd, const char **why)
{
    char *chosen = g_atomic_pointer_get(&endpoint->chosen);
    int r, fd;

    if (endpoint->path != NULL && *endpoint->path == '\0') {
        *why = "socket= is empty; it takes the path of the server's socket";
        return -1;
    }
    if (endpoint->path == NULL || (endpoint->uri != NULL && chosen == NULL)) {
        r = nbd_aio_connect_uri(nbd, endpoint->uri);
        *why = r < 0 ? why_not(nbd_get_errno(), fl_nbd_error()) : NULL;
        chosen = r == 0 ? nbd_get_export_name(nbd) : NULL;
        if (chosen != NULL &&
            !g_atomic_pointer_compare_and_exchange(&endpoint->chosen, NULL, chosen))
            free(chosen);
        return r;
    }
    fd = fl_unix_connect(endpoint->path);
    if (fd < 0) {
        *why = why_not(errno, g_strerror(errno));
        return -1;
    }
    if (chosen != NULL)
        nbd_set_export_name(nbd, chosen);
    r = nbd_aio_connect_socket(nbd, fd);
    *why = r < 0 ? fl_nbd_error() : NULL;
    return r;
}

/* Simple replies make reads cheaper: two calls to receive one instead of four, and QEMU does not
 * look for holes, which the map has already. */
struct nbd_handle *fl_endpoint_connect(FlEndpoint *endpoint, bool structured, const FlWait *wait,
                                       GError **error)
{
    struct nbd_handle *nbd = nbd_create();
    const char *why = NULL;
    int r;

    if (nbd == NULL) {
        fl_fail_lost(error, "%s: %s", endpoint->label, fl_nbd_error());
        return NULL;
    }
    nbd_set_opt_mode(nbd, true);
    nbd_set_full_info(nbd, true);
    nbd_set_request_structured_replies(nbd, structured);
    /* Buffers are read only after a successful read, so libnbd need not clear them. */
    nbd_set_pread_initialize(nbd, false);
    /* The user who runs fleecefs names the PSK and certificate files; the URI is trusted. */
    nbd_set_uri_allow_local_file(nbd, true);
    if (endpoint->uri != NULL && !fl_tls_check(nbd, endpoint->uri, error)) {
        g_prefix_error(error, "cannot connect to %s: ", endpoint->label);
        nbd_close(nbd);
        return NULL;
    }

    r = start_connecting(endpoint, nbd, &why);
    if (r < 0) {
        fl_fail_lost(error, "cannot connect to %s: %s", endpoint->label, why);
    } else if (fl_nbd_wait(nbd, is_connected, NULL, wait, error)) {
        return nbd;
    } else {
        g_prefix_error(error, "cannot connect to %s: ", endpoint->label);
    }
    nbd_close(nbd);
    return NULL;
}

void fl_endpoint_set_only(FlEndpoint *endpoint, const char *export)
{
    g_autoptr(GMutexLocker) locker G_GNUC_UNUSED = g_mutex_locker_new(&endpoint->lock);

    g_free(endpoint->only);
    endpoint->only = g_strdup(export);
}

/* Returns the kept connection if it is alive and has all CONTEXTS; closes it otherwise. */
static struct nbd_handle *take_kept(FlEndpoint *endpoint, const char *export,
                                    const char *const *contexts)
{
    struct nbd_handle *nbd = NULL;

    g_mutex_lock(&endpoint->lock);
    if (g_strcmp0(endpoint->only, export) == 0)
        nbd = g_steal_pointer(&endpoint->kept);
    g_mutex_unlock(&endpoint->lock);
    if (nbd == NULL)
        return NULL;
    /* Detects that the server has disconnected meanwhile. */
    nbd_poll(nbd, 0);
    while (contexts != NULL && *contexts != NULL && nbd_can_meta_context(nbd, *contexts) > 0)
        contexts++;
    if (nbd_aio_is_ready(nbd) && (contexts == NULL || *contexts == NULL))
        return nbd;
    fl_nbd_close(nbd);
    return NULL;
}

void fl_endpoint_keep(FlEndpoint *endpoint, const char *export, struct nbd_handle *nbd)
{
    g_mutex_lock(&endpoint->lock);
    if (g_strcmp0(endpoint->only, export) == 0 && endpoint->kept == NULL && nbd_aio_is_ready(nbd))
        endpoint->kept = g_steal_pointer(&nbd);
    g_mutex_unlock(&endpoint->lock);
    fl_nbd_close(nbd);
}

struct nbd_handle *fl_endpoint_open(FlEndpoint *endpoint, const char *export,
                                    const char *const *contexts, const FlWait *wait, GError **error)
{
    bool structured = contexts != NULL && *contexts != NULL;
    struct nbd_handle *nbd = take_kept(endpoint, export, contexts);

    if (nbd != NULL)
        return nbd;
    nbd = fl_endpoint_connect(endpoint, structured, wait, error);
    if (nbd == NULL)
        return NULL;
    for (; contexts != NULL && *contexts != NULL; contexts++)
        nbd_add_meta_context(nbd, *contexts);
    nbd_set_export_name(nbd, export);
    if (fl_option_go(nbd, wait, error))
        return nbd;
    g_prefix_error(error, "export \"%s\" of %s: ", export, endpoint->label);
    nbd_close(nbd);
    return NULL;
}
