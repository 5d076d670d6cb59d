/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "disk/endpoint.h"

#include "tls.h"
#include "util/keeper.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct FlEndpoint {
    gatomicrefcount refs;
    char *uri;    /* NULL for a socket */
    int socket;   /* -1 for a URI */
    char *path;   /* of a Unix socket that we connect ourselves; NULL for other URIs */
    char *chosen; /* the export that the URI names, once it was connected to; atomic */
    char *label;
};

FlExportInfo *fl_export_info_new(void)
{
    FlExportInfo *info = g_new0(FlExportInfo, 1);

    info->contexts = g_ptr_array_new_with_free_func(g_free);
    return info;
}

void fl_export_info_free(FlExportInfo *info)
{
    if (info == NULL)
        return;
    g_free(info->name);
    g_free(info->description);
    g_ptr_array_unref(info->contexts);
    g_free(info);
}

bool fl_export_info_has_context(const FlExportInfo *info, const char *context)
{
    return g_ptr_array_find_with_equal_func(info->contexts, context, g_str_equal, NULL);
}

/* Only the socket of a Unix URI is kept of its query; user and password never are. */
static char *label_of_uri(const char *uri)
{
    g_autoptr(GUri) parsed = g_uri_parse(uri, G_URI_FLAGS_NONE, NULL);
    g_autoptr(GHashTable) params = NULL;
    g_autofree char *query = NULL;
    const char *socket = NULL;

    if (parsed == NULL)
        return g_strdup("the NBD URI");
    if (g_uri_get_query(parsed) != NULL)
        params = g_uri_parse_params(g_uri_get_query(parsed), -1, "&", G_URI_PARAMS_NONE, NULL);
    if (params != NULL)
        socket = g_hash_table_lookup(params, "socket");
    if (socket != NULL)
        query = g_strconcat("socket=", socket, NULL);
    return g_uri_join(G_URI_FLAGS_NONE, g_uri_get_scheme(parsed), NULL, g_uri_get_host(parsed),
                      g_uri_get_port(parsed), g_uri_get_path(parsed), query, NULL);
}

/* URI with absolute paths in its query: the daemon does not stay in the folder that they were
 * relative to. */
static char *with_absolute_paths(const char *uri)
{
    g_autoptr(GRegex) relative = g_regex_new(
        "(?<=[?&]socket=|[?&]tls-certificates=|[?&]tls-psk-file=)(?=[^/%&])", G_REGEX_RAW, 0, NULL);
    g_autofree char *folder = g_get_current_dir();
    g_autofree char *escaped = g_uri_escape_bytes((const guint8 *)folder, strlen(folder), "/");
    g_autofree char *prefix = g_strconcat(escaped, "/", NULL);

    return g_regex_replace_literal(relative, uri, -1, 0, prefix, 0, NULL);
}

/* Of a URI without TLS, which is all that there is to connecting to it. */
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

FlEndpoint *fl_endpoint_new_uri(const char *uri)
{
    FlEndpoint *endpoint = g_new0(FlEndpoint, 1);

    g_atomic_ref_count_init(&endpoint->refs);
    endpoint->uri = with_absolute_paths(uri);
    endpoint->socket = -1;
    endpoint->path = path_of_uri(endpoint->uri);
    endpoint->label = label_of_uri(endpoint->uri);
    return endpoint;
}

FlEndpoint *fl_endpoint_new_socket(int fd, const char *label)
{
    FlEndpoint *endpoint = g_new0(FlEndpoint, 1);

    g_atomic_ref_count_init(&endpoint->refs);
    endpoint->socket = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    endpoint->path = g_strdup_printf("/proc/self/fd/%d", endpoint->socket);
    endpoint->label = g_strdup(label);
    return endpoint;
}

FlEndpoint *fl_endpoint_ref(FlEndpoint *endpoint)
{
    g_atomic_ref_count_inc(&endpoint->refs);
    return endpoint;
}

void fl_endpoint_unref(FlEndpoint *endpoint)
{
    if (endpoint == NULL || !g_atomic_ref_count_dec(&endpoint->refs))
        return;
    if (endpoint->socket >= 0)
        close(endpoint->socket);
    g_free(endpoint->uri);
    g_free(endpoint->path);
    free(endpoint->chosen); /* of libnbd */
    g_free(endpoint->label);
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

bool fl_nbd_wait(struct nbd_handle *nbd, bool (*done)(struct nbd_handle *nbd, void *opaque),
                 void *opaque, const FlWait *wait, GError **error)
{
    /* Short slices, so that a cancel is noticed without a descriptor of its own. */
    enum { SLICE_MS = 100 };
    gint64 late = g_get_monotonic_time() + wait->seconds * G_USEC_PER_SEC;

    while (!done(nbd, opaque)) {
        gint64 now = g_get_monotonic_time();

        if (wait->cancel != NULL && g_cancellable_set_error_if_cancelled(wait->cancel, error))
            return false;
        if (nbd_aio_is_dead(nbd) || nbd_aio_is_closed(nbd))
            return fl_fail_lost(error, "the server closed the connection");
        if (now >= late)
            return fl_fail_lost(error, "the server has not answered for %u seconds", wait->seconds);
        if (wait->deadline != 0 && now >= wait->deadline)
            return fl_fail_lost(error, "the server is too slow");
        if (nbd_poll(nbd, SLICE_MS) >= 0 || nbd_get_errno() == EINTR)
            continue;
        /* libnbd has no number for what is against the protocol: that will be no better next time.
         */
        return nbd_get_errno() == 0 ? fl_fail(error, "%s", nbd_get_error())
                                    : fl_fail_lost(error, "%s", nbd_get_error());
    }
    return true;
}

void fl_nbd_close(struct nbd_handle *nbd)
{
    if (nbd == NULL)
        return;
    if (nbd_aio_is_negotiating(nbd))
        nbd_aio_opt_abort(nbd);
    else if (nbd_aio_is_ready(nbd))
        nbd_aio_disconnect(nbd, 0);
    nbd_close(nbd);
}

static bool is_connected(struct nbd_handle *nbd, void *opaque)
{
    return nbd_aio_is_negotiating(nbd) || nbd_aio_is_ready(nbd);
}

/*
 * The first time libnbd connects to a URI, and tells what it makes of it. Later the socket is
 * connected by fl_unix_connect(), since the sandbox may leave us no other way.
 */
static int start_connecting(FlEndpoint *endpoint, struct nbd_handle *nbd, const char **why)
{
    char *chosen = g_atomic_pointer_get(&endpoint->chosen);
    int r, fd;

    if (endpoint->path == NULL || (endpoint->uri != NULL && chosen == NULL)) {
        r = nbd_aio_connect_uri(nbd, endpoint->uri);
        *why = r < 0 ? nbd_get_error() : NULL;
        chosen = r == 0 ? nbd_get_export_name(nbd) : NULL;
        if (chosen != NULL &&
            !g_atomic_pointer_compare_and_exchange(&endpoint->chosen, NULL, chosen))
            free(chosen);
        return r;
    }
    fd = fl_unix_connect(endpoint->path);
    if (fd < 0) {
        *why = g_strerror(errno);
        return -1;
    }
    if (chosen != NULL)
        nbd_set_export_name(nbd, chosen);
    r = nbd_aio_connect_socket(nbd, fd);
    *why = r < 0 ? nbd_get_error() : NULL;
    return r;
}

/*
 * Connects up to the point where an export is chosen; an old server is past it already. Only block
 * status needs STRUCTURED replies. A read is cheaper by a simple reply: two calls to receive it
 * instead of four, and QEMU does not look for holes that the map has told of.
 */
static struct nbd_handle *connect_endpoint(FlEndpoint *endpoint, bool structured,
                                           const FlWait *wait, GError **error)
{
    struct nbd_handle *nbd = nbd_create();
    const char *why = NULL;
    int r;

    if (nbd == NULL) {
        fl_fail_lost(error, "%s: %s", endpoint->label, nbd_get_error());
        return NULL;
    }
    nbd_set_opt_mode(nbd, true);
    nbd_set_full_info(nbd, true);
    nbd_set_request_structured_replies(nbd, structured);
    /* Buffers are never looked at unless the read succeeded, so clearing them first is waste. */
    nbd_set_pread_initialize(nbd, false);
    /* PSK and certificate files are named by the user who runs us, not by a stranger. */
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

/* An option under way: what its completion leaves behind. It belongs to libnbd as well, for as long
 * as that may call back. */
typedef struct {
    gatomicrefcount refs;
    bool done;
    int error;          /* errno, 0 for success */
    GPtrArray *strings; /* NULL: it is not of a kind that lists */
    unsigned limit;
    bool over; /* there were more strings than that */
} Option;

static Option *option_new(unsigned limit)
{
    Option *option = g_new0(Option, 1);

    g_atomic_ref_count_init(&option->refs);
    option->limit = limit;
    option->strings = limit > 0 ? g_ptr_array_new_with_free_func(g_free) : NULL;
    return option;
}

static void option_unref(void *opaque)
{
    Option *option = opaque;

    if (!g_atomic_ref_count_dec(&option->refs))
        return;
    if (option->strings != NULL)
        g_ptr_array_unref(option->strings);
    g_free(option);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Option, option_unref)

static int option_done(void *opaque, int *error)
{
    Option *option = opaque;

    option->done = true;
    option->error = *error;
    return 1;
}

static bool option_is_done(struct nbd_handle *nbd, void *opaque)
{
    return ((Option *)opaque)->done;
}

static int option_string(Option *option, const char *string)
{
    if (option->strings->len >= option->limit) {
        option->over = true;
        return -1;
    }
    g_ptr_array_add(option->strings, g_strdup(string));
    return 0;
}

static int list_export(void *opaque, const char *name, const char *description)
{
    return option_string(opaque, name);
}

static int list_context(void *opaque, const char *name)
{
    return option_string(opaque, name);
}

static bool option_wait(struct nbd_handle *nbd, int started, Option *option, const FlWait *wait,
                        GError **error)
{
    if (started < 0)
        return fl_fail_lost(error, "%s", nbd_get_error());
    if (!fl_nbd_wait(nbd, option_is_done, option, wait, error))
        return false;
    if (option->error != 0)
        return fl_fail_lost(error, "the server refused: %s", g_strerror(option->error));
    return true;
}

static nbd_completion_callback completion(Option *option)
{
    g_atomic_ref_count_inc(&option->refs);
    return (nbd_completion_callback){
        .callback = option_done, .user_data = option, .free = option_unref};
}

static bool option_go(struct nbd_handle *nbd, const FlWait *wait, GError **error)
{
    g_autoptr(Option) option = option_new(0);

    if (nbd_aio_is_ready(nbd))
        return true;
    return option_wait(nbd, nbd_aio_opt_go(nbd, completion(option)), option, wait, error);
}

/* The names that the server lists; NULL where it does not list any. False with an error if they are
 * too many: to leave out some would be worse. */
static bool list_names(struct nbd_handle *nbd, const FlWait *wait, GPtrArray **names_out,
                       GError **error)
{
    g_autoptr(Option) option = option_new(FL_EXPORTS_MAX);
    nbd_list_callback list = {.callback = list_export, .user_data = option, .free = option_unref};

    if (!nbd_aio_is_negotiating(nbd))
        return true;
    g_atomic_ref_count_inc(&option->refs);
    if (option_wait(nbd, nbd_aio_opt_list(nbd, list, completion(option)), option, wait, NULL) &&
        option->strings->len > 0)
        *names_out = g_ptr_array_ref(option->strings);
    return !option->over || fl_fail(error, "the server has more than %u exports", FL_EXPORTS_MAX);
}

static uint32_t block_size(struct nbd_handle *nbd, int which, uint32_t fallback)
{
    int64_t size = nbd_get_block_size(nbd, which);

    return size > 0 && size <= UINT32_MAX ? (uint32_t)size : fallback;
}

static FlExportInfo *read_info(struct nbd_handle *nbd, const char *name, GError **error)
{
    g_autoptr(FlExportInfo) info = fl_export_info_new();
    int64_t size = nbd_get_size(nbd);

    if (size < 0) {
        fl_fail(error, "the size of export \"%s\" cannot be used: %s", name, nbd_get_error());
        return NULL;
    }
    info->name = g_strdup(name);
    info->size = (uint64_t)size;
    info->description = nbd_get_export_description(nbd);
    if (info->description != NULL && *info->description == '\0')
        g_clear_pointer(&info->description, free);
    /* What the protocol allows ("Block size constraints"); other numbers are no numbers. */
    info->block_min = block_size(nbd, LIBNBD_SIZE_MINIMUM, 1);
    if (info->block_min > 64 << 10 || (info->block_min & (info->block_min - 1)) != 0)
        info->block_min = 1;
    info->block_preferred = block_size(nbd, LIBNBD_SIZE_PREFERRED, 4096);
    info->block_max =
        MAX(block_size(nbd, LIBNBD_SIZE_MAXIMUM, 32 << 20), MAX(info->block_min, 512));
    info->multi_conn = nbd_can_multi_conn(nbd) > 0;
    return g_steal_pointer(&info);
}

/* Asks for an export without entering it; NULL without an error where the server cannot be asked.
 */
static FlExportInfo *ask_info(struct nbd_handle *nbd, const char *name, const FlWait *wait,
                              GError **error)
{
    g_autoptr(FlExportInfo) info = NULL;
    g_autoptr(Option) asked = option_new(0);
    g_autoptr(Option) listed = option_new(FL_CONTEXTS_MAX);
    nbd_context_callback list = {
        .callback = list_context, .user_data = listed, .free = option_unref};

    if (nbd_set_export_name(nbd, name) < 0) {
        fl_fail(error, "export \"%s\": %s", name, nbd_get_error());
        return NULL;
    }
    if (!option_wait(nbd, nbd_aio_opt_info(nbd, completion(asked)), asked, wait, error)) {
        if (asked->done && asked->error != ENOENT)
            g_clear_error(error);
        return NULL;
    }
    info = read_info(nbd, name, error);
    if (info == NULL)
        return NULL;

    /* Without structured replies no server gives a context, though some list them. */
    if (nbd_get_structured_replies_negotiated(nbd) <= 0)
        return g_steal_pointer(&info);
    g_atomic_ref_count_inc(&listed->refs);
    if (option_wait(nbd, nbd_aio_opt_list_meta_context(nbd, list, completion(listed)), listed,
                    wait, NULL)) {
        g_ptr_array_unref(info->contexts);
        info->contexts = g_ptr_array_ref(listed->strings);
    }
    if (listed->over) {
        fl_fail(error, "export \"%s\" has more than %u meta contexts", name, FL_CONTEXTS_MAX);
        return NULL;
    }
    return g_steal_pointer(&info);
}

/* Enters the export to learn of it: for servers without NBD_OPT_INFO. */
static FlExportInfo *enter_info(FlEndpoint *endpoint, const char *name, const FlWait *wait,
                                GError **error)
{
    static const char *const usual[] = {"base:allocation", "qemu:allocation-depth", NULL};
    struct nbd_handle *nbd = fl_endpoint_open(endpoint, name, usual, wait, error);
    FlExportInfo *info;

    if (nbd == NULL)
        return NULL;
    info = read_info(nbd, name, error);
    for (const char *const *c = usual; info != NULL && *c != NULL; c++) {
        if (nbd_can_meta_context(nbd, *c) > 0)
            g_ptr_array_add(info->contexts, g_strdup(*c));
    }
    fl_nbd_close(nbd);
    return info;
}

static void no_such_export(const FlEndpoint *endpoint, const char *name, const GPtrArray *names,
                           GError **error)
{
    g_autoptr(GString) known = g_string_new(NULL);
    guint shown = names != NULL ? MIN(names->len, 20) : 0;

    for (guint i = 0; i < shown; i++)
        g_string_append_printf(known, "%s\"%s\"", i > 0 ? ", " : "", (char *)names->pdata[i]);
    g_clear_error(error);
    fl_fail(error, "%s has no export \"%s\"; %s%s%s", endpoint->label, name,
            shown > 0 ? "it has " : "it does not tell which it has", known->str,
            names != NULL && names->len > shown ? " and more" : "");
}

/* What is known of NAME, by whatever way the server offers. */
static FlExportInfo *find_info(FlEndpoint *endpoint, struct nbd_handle *nbd, const char *name,
                               const FlWait *wait, GError **error)
{
    FlExportInfo *info = NULL;
    GError *why = NULL;

    if (nbd_aio_is_negotiating(nbd))
        info = ask_info(nbd, name, wait, &why);
    if (info == NULL && why == NULL)
        info = enter_info(endpoint, name, wait, &why);
    if (why != NULL)
        g_propagate_error(error, why);
    return info;
}

/* NAME, or all that the server lists if that is NULL. */
static bool find_exports(FlEndpoint *endpoint, struct nbd_handle *nbd, const char *name,
                         GPtrArray *exports, const FlWait *wait, GError **error)
{
    g_autoptr(GPtrArray) names = NULL;
    g_autoptr(GError) why = NULL;
    bool all;

    if (!list_names(nbd, wait, &names, error)) {
        g_prefix_error(error, "%s: ", endpoint->label);
        return false;
    }
    all = name == NULL && names != NULL;
    for (guint i = 0; i < (all ? names->len : 1); i++) {
        const char *wanted = all ? names->pdata[i] : name != NULL ? name : "";
        FlExportInfo *info = find_info(endpoint, nbd, wanted, wait, &why);

        if (info == NULL && name != NULL &&
            (names == NULL || !g_ptr_array_find_with_equal_func(names, name, g_str_equal, NULL))) {
            no_such_export(endpoint, name, names, error);
            return false;
        }
        if (info == NULL) {
            g_propagate_prefixed_error(error, g_steal_pointer(&why), "%s: ", endpoint->label);
            return false;
        }
        g_ptr_array_add(exports, info);
    }
    return true;
}

GPtrArray *fl_endpoint_export(FlEndpoint *endpoint, const char *name, const FlWait *wait,
                              GError **error)
{
    struct nbd_handle *nbd = connect_endpoint(endpoint, true, wait, error);
    g_autoptr(GPtrArray) exports =
        g_ptr_array_new_with_free_func((GDestroyNotify)fl_export_info_free);
    g_autofree char *named = NULL;
    bool ok;

    if (nbd == NULL)
        return NULL;
    if (name == NULL) {
        named = nbd_get_export_name(nbd);
        name = named != NULL && *named != '\0' ? named : NULL;
    }
    ok = find_exports(endpoint, nbd, name, exports, wait, error);
    fl_nbd_close(nbd);
    return ok ? g_steal_pointer(&exports) : NULL;
}

GPtrArray *fl_endpoint_exports(FlEndpoint *endpoint, const FlWait *wait, GError **error)
{
    return fl_endpoint_export(endpoint, NULL, wait, error);
}

struct nbd_handle *fl_endpoint_open(FlEndpoint *endpoint, const char *export,
                                    const char *const *contexts, const FlWait *wait, GError **error)
{
    bool structured = contexts != NULL && *contexts != NULL;
    struct nbd_handle *nbd = connect_endpoint(endpoint, structured, wait, error);

    if (nbd == NULL)
        return NULL;
    for (; contexts != NULL && *contexts != NULL; contexts++)
        nbd_add_meta_context(nbd, *contexts);
    nbd_set_export_name(nbd, export);
    if (option_go(nbd, wait, error))
        return nbd;
    g_prefix_error(error, "export \"%s\" of %s: ", export, endpoint->label);
    nbd_close(nbd);
    return NULL;
}
