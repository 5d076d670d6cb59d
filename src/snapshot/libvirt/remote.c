/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "snapshot/libvirt/remote.h"

#include "scripts.h"
#include "util/clients.h"
#include "util/ssh.h"

#include <stdio.h>
#include <string.h>

/* Name of the relay's socket, in the folder of the NBD server's. */
#define RELAY "relay"

struct FlRemote {
    FlSsh *ssh; /* NULL: libvirt is reached over TLS or TCP */
    char *host;
    char *libvirt;      /* libvirt's URI */
    char *there;        /* libvirt's socket on the host; NULL without ssh */
    char *uri;          /* to use with that socket, on the host */
    char *pki;          /* certificate folder named in the URI; NULL if none */
    char *nbd;          /* NBD URI; NULL until something is served */
    const char *socket; /* local socket of NBD */
    const char *relay;  /* the same of the relay; NULL: none */
    char **start_relay; /* arguments of its script; NULL: do not start it again */
    const char *qmp;    /* the same of the storage daemon's monitor; NULL: none */
    bool asked;
    bool starting; /* asked to start the relay, rather than for the free space */
    uint64_t room;
    GHashTable *used; /* of char * to uint64_t * */
};

/* URIs */

static GUri *parse(const char *text)
{
    return text != NULL ? g_uri_parse(text, G_URI_FLAGS_HAS_PASSWORD, NULL) : NULL;
}

bool fl_remote_is(const char *text)
{
    g_autoptr(GUri) uri = parse(text);
    const char *host = uri != NULL ? g_uri_get_host(uri) : NULL;

    return host != NULL && *host != '\0';
}

/* Translates a parameter of a libvirt URI for ssh. Returns false if it does not concern ssh. */
static bool add_option(GPtrArray *options, const char *name, const char *value)
{
    if (g_str_equal(name, "keyfile")) {
        g_ptr_array_add(options, g_strdup("-i"));
        g_ptr_array_add(options, g_strdup(value));
    } else if (g_str_equal(name, "known_hosts")) {
        g_ptr_array_add(options, g_strdup_printf("-oUserKnownHostsFile=\"%s\"", value));
    } else if (g_str_equal(name, "no_verify")) {
        if (!g_str_equal(value, "0"))
            g_ptr_array_add(options, g_strdup("-oStrictHostKeyChecking=no"));
    } else {
        return false;
    }
    return true;
}

/* SOCKET and PROGRAM belong to PARAMS. */
static GPtrArray *options_of(GUri *uri, GHashTable *params, GError **error)
{
    /* Accepted but ignored: how libvirt's own ssh finds the socket there, and options against
     * prompts, which never occur here. */
    static const char *const others[] = {"socket", "command", "mode", "proxy",
                                         "netcat", "no_tty",  NULL};
    g_autoptr(GPtrArray) options = g_ptr_array_new_with_free_func(g_free);
    GHashTableIter iter;
    gpointer name, value;

    if (g_uri_get_port(uri) > 0)
        g_ptr_array_add(options, g_strdup_printf("-p%d", g_uri_get_port(uri)));
    if (g_uri_get_user(uri) != NULL && *g_uri_get_user(uri) != '\0') {
        g_ptr_array_add(options, g_strdup("-l"));
        g_ptr_array_add(options, g_strdup(g_uri_get_user(uri)));
    }
    g_hash_table_iter_init(&iter, params);
    while (g_hash_table_iter_next(&iter, &name, &value)) {
        if (add_option(options, name, value) || g_strv_contains(others, name))
            continue;
        fl_fail_usage(error, "fleecefs does not support parameter %s of the URI",
                      (const char *)name);
        return NULL;
    }
    g_ptr_array_add(options, NULL);
    return g_steal_pointer(&options);
}

static bool is_by_ssh(GUri *uri)
{
    return g_str_equal(g_uri_get_scheme(uri), "qemu+ssh");
}

static bool check_uri(GUri *uri, GError **error)
{
    static const char *const others[] = {"qemu+tls", "qemu+tcp", NULL};
    const char *path = g_uri_get_path(uri);

    if (!is_by_ssh(uri) && !g_strv_contains(others, g_uri_get_scheme(uri)))
        return fl_fail_usage(error,
                             "%s: another host can be reached by qemu+ssh://HOST/system, and with "
                             "-o nbd_tls=DIR by qemu+tls and qemu+tcp; or run fleecefs there",
                             g_uri_get_scheme(uri));
    if (g_uri_get_password(uri) != NULL)
        return fl_fail_usage(error, "a password in the URI is not supported: use ssh keys");
    if (!is_by_ssh(uri))
        return true;
    if (!g_str_equal(path, "/system") && !g_str_equal(path, "/session"))
        return fl_fail_usage(error, "%s: write qemu+ssh://HOST/system or qemu+ssh://HOST/session",
                             path);
    return true;
}

/* The connection */

static bool start(FlRemote *remote, GUri *uri, GHashTable *params, unsigned seconds, GError **error)
{
    const char *program = g_hash_table_lookup(params, "command");
    g_autoptr(GPtrArray) options = options_of(uri, params, error);
    FlSshSpec spec = {
        .program = program != NULL ? program : "ssh",
        .host = g_uri_get_host(uri),
        .scripts = fl_remote_scripts,
        .seconds = seconds,
    };

    if (options == NULL)
        return false;
    spec.options = (const char *const *)options->pdata;
    remote->ssh = fl_ssh_start(&spec, error);
    return remote->ssh != NULL;
}

static bool reach_libvirt(FlRemote *remote, GUri *uri, GHashTable *params, GError **error)
{
    const char *path = g_uri_get_path(uri);
    const char *chosen = g_hash_table_lookup(params, "socket");
    const char *const args[] = {path + 1, chosen != NULL ? chosen : "", NULL};
    g_autofree char *socket = NULL;
    const char *here;

    /* Even if it is known: this shows whether the login shell runs sh, before ssh ends with it. */
    socket = fl_ssh_run(remote->ssh, FL_SCRIPT_SOCKET, args, error);
    here = socket != NULL ? fl_ssh_forward(remote->ssh, "libvirt", socket, error) : NULL;
    if (here == NULL)
        return false;
    remote->there = g_steal_pointer(&socket);
    remote->libvirt = g_strdup_printf("qemu+unix://%s?socket=%s", path, here);
    remote->uri = g_strdup_printf("qemu://%s", path);
    return true;
}

FlRemote *fl_remote_open(const char *text, unsigned seconds, GError **error)
{
    g_autoptr(FlRemote) remote = g_new0(FlRemote, 1);
    g_autoptr(GUri) uri = parse(text);
    const char *query = g_uri_get_query(uri);
    g_autoptr(GHashTable) params =
        g_uri_parse_params(query != NULL ? query : "", -1, "&;", G_URI_PARAMS_NONE, NULL);

    remote->room = UINT64_MAX;
    remote->used = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    remote->host = g_strdup(g_uri_get_host(uri));
    if (params == NULL) {
        fl_fail_usage(error, "the URI is invalid");
        return NULL;
    }
    if (!check_uri(uri, error))
        return NULL;
    if (!is_by_ssh(uri)) {
        remote->libvirt = g_strdup(text);
        remote->pki = g_strdup(g_hash_table_lookup(params, "pkipath"));
        return g_steal_pointer(&remote);
    }
    if (start(remote, uri, params, seconds, error) && reach_libvirt(remote, uri, params, error))
        return g_steal_pointer(&remote);
    if (error != NULL && (*error)->code != FL_ERROR_USAGE)
        g_prefix_error(error, "cannot reach %s by ssh: ", remote->host);
    return NULL;
}

void fl_remote_free(FlRemote *remote)
{
    if (remote == NULL)
        return;
    fl_ssh_free(remote->ssh);
    g_hash_table_unref(remote->used);
    g_free(remote->host);
    g_free(remote->libvirt);
    g_free(remote->there);
    g_free(remote->uri);
    g_strfreev(remote->start_relay);
    g_free(remote->pki);
    g_free(remote->nbd);
    g_free(remote);
}

bool fl_remote_has_ssh(const FlRemote *remote)
{
    return remote->ssh != NULL;
}

const char *fl_remote_host(const FlRemote *remote)
{
    return remote->host;
}

const char *fl_remote_libvirt(const FlRemote *remote)
{
    return remote->libvirt;
}

void fl_remote_allow(const FlRemote *remote, FlSandbox *sandbox)
{
    g_autofree char *home = g_build_filename(g_get_home_dir(), ".pki", NULL);

    if (remote->qmp != NULL)
        fl_sandbox_allow_socket(sandbox, remote->qmp);
    if (remote->ssh != NULL)
        return;
    fl_sandbox_allow(sandbox, home, FL_SANDBOX_READ);
    fl_sandbox_allow(sandbox, remote->pki, FL_SANDBOX_READ);
}

/* Runs SCRIPT. Errors name the host. */
static char *run(FlRemote *remote, unsigned script, const char *const *args, GError **error)
{
    char *output = fl_ssh_run(remote->ssh, script, args, error);

    if (output == NULL)
        g_prefix_error(error, "on %s: ", remote->host);
    return output;
}

char *fl_remote_complaint(FlRemote *remote)
{
    return remote->ssh != NULL ? fl_ssh_complaint(remote->ssh) : NULL;
}

char *fl_remote_refusal(FlRemote *remote)
{
    const char *const args[] = {remote->there, NULL};
    g_autofree char *said = fl_remote_complaint(remote);
    g_autoptr(GError) why = NULL;

    if (said == NULL || strstr(said, FL_SSH_REFUSED) == NULL)
        return NULL;
    g_free(run(remote, FL_SCRIPT_WHY, args, &why));
    return g_strdup(why != NULL ? why->message : said);
}

/* The directory of socket and scratch */

bool fl_remote_check_name(const FlRemote *remote, const char *directory, GError **error)
{
    return remote->ssh == NULL || fl_ssh_can_forward(directory) ||
           fl_fail_usage(error,
                         "scratch directory %s: on another host its path must be absolute and must "
                         "not contain spaces, quotes, ':', '%%', '$', '~' or '\\', which ssh "
                         "interprets; choose another with -o scratch=DIR",
                         directory);
}

bool fl_remote_make(FlRemote *remote, const char *directory, gint64 user, gint64 group,
                    GError **error)
{
    g_autofree char *owner = g_strdup_printf("%" G_GINT64_FORMAT, user);
    g_autofree char *owners = g_strdup_printf("%" G_GINT64_FORMAT, group);
    const char *const args[] = {directory, owner, owners, NULL};
    g_autofree char *output = run(remote, FL_SCRIPT_MAKE, args, error);

    return output != NULL;
}

bool fl_remote_remove(FlRemote *remote, const char *stem, GError **error)
{
    const char *const args[] = {stem, NULL};
    g_autofree char *output = run(remote, FL_SCRIPT_REMOVE, args, error);

    return output != NULL;
}

const char *fl_remote_serve(FlRemote *remote, const char *socket, const char *uri, GError **error)
{
    if (socket != NULL)
        remote->socket = fl_ssh_forward(remote->ssh, "nbd", socket, error);
    if (remote->ssh != NULL)
        fl_ssh_seal(remote->ssh);
    if (socket != NULL && remote->socket == NULL)
        return NULL;
    remote->nbd =
        socket != NULL ? g_strdup_printf("nbd+unix:///?socket=%s", remote->socket) : g_strdup(uri);
    return remote->nbd;
}

const char *fl_remote_relay(FlRemote *remote, const char *socket, const char *uuid, uint64_t total,
                            GError **error)
{
    g_autofree char *folder = g_path_get_dirname(socket);
    g_autofree char *path = g_build_filename(folder, RELAY, NULL);
    g_autofree char *bytes = g_strdup_printf("%" G_GUINT64_FORMAT, total);
    const char *const args[] = {path, socket, remote->there, remote->uri, uuid, bytes, NULL};
    g_autofree char *output = run(remote, FL_SCRIPT_RELAY, args, error);

    if (output != NULL)
        remote->relay = fl_ssh_forward(remote->ssh, RELAY, path, error);
    if (remote->relay != NULL)
        remote->start_relay = g_strdupv((char **)args);
    return remote->relay;
}

int fl_remote_clients(FlRemote *remote, const char *socket)
{
    const char *const args[] = {socket, NULL};
    const char *const ours[] = {remote->socket, remote->relay};
    g_autofree char *output =
        remote->ssh != NULL ? run(remote, FL_SCRIPT_CLIENTS, args, NULL) : NULL;
    int listens = 0, count = 0;

    if (output == NULL || sscanf(output, "%d %d", &listens, &count) != 2 || listens == 0)
        return -1;
    /* The relay has one connection for each of ours. */
    for (unsigned i = 0; i < G_N_ELEMENTS(ours); i++)
        count -= ours[i] != NULL ? fl_clients_own(ours[i]) : 0;
    return MAX(count, 0);
}

/* Scratch space */

void fl_remote_note_room(FlRemote *remote, uint64_t room)
{
    remote->room = room;
}

void fl_remote_note_used(FlRemote *remote, const char *file, uint64_t used)
{
    g_hash_table_insert(remote->used, g_strdup(file), g_memdup2(&used, sizeof used));
}

/* A file name extends to the end of its line. */
static void read_room(FlRemote *remote, const char *output)
{
    g_auto(GStrv) lines = g_strsplit(output, "\n", -1);

    g_hash_table_remove_all(remote->used);
    for (char **line = lines; *line != NULL; line++) {
        uint64_t count, size;
        int at = 0;

        if (sscanf(*line, "room %" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT, &count, &size) == 2)
            remote->room = size > 0 && count > UINT64_MAX / size ? UINT64_MAX : count * size;
        else if (sscanf(*line, "used %" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT " %n", &count, &size,
                        &at) == 2 &&
                 at > 0)
            fl_remote_note_used(remote, *line + at, count * size);
    }
}

bool fl_remote_room(FlRemote *remote, const char *path, uint64_t *room, GError **error)
{
    const char *const args[] = {path, "", NULL};
    g_autofree char *output = run(remote, FL_SCRIPT_ROOM, args, error);

    if (output == NULL)
        return false;
    remote->room = UINT64_MAX;
    read_room(remote, output);
    *room = remote->room;
    return *room != UINT64_MAX ||
           fl_fail(error, "on %s: the free space in %s is unknown", remote->host, path);
}

/* It ends with the ssh connection, and another one may be up already. */
static bool has_lost_relay(const FlRemote *remote)
{
    return remote->start_relay != NULL && !g_hash_table_contains(remote->used, RELAY);
}

bool fl_remote_look(FlRemote *remote, const char *path, const char *directory)
{
    const char *const args[] = {path, directory, NULL};
    g_autofree char *output = NULL;
    bool done = true, answered;

    if (remote->asked)
        output = fl_ssh_take(remote->ssh, &done);
    if (remote->starting && done && output == NULL)
        g_clear_pointer(&remote->start_relay, g_strfreev);
    else if (output != NULL && !remote->starting)
        read_room(remote, output);
    answered = output != NULL && !remote->starting;
    if (done) {
        remote->starting = answered && has_lost_relay(remote);
        fl_ssh_ask(remote->ssh, remote->starting ? FL_SCRIPT_RELAY : FL_SCRIPT_ROOM,
                   remote->starting ? (const char *const *)remote->start_relay : args);
    }
    remote->asked = true;
    return answered;
}

uint64_t fl_remote_free_room(const FlRemote *remote)
{
    return remote->room;
}

uint64_t fl_remote_used(const FlRemote *remote, const char *file)
{
    const uint64_t *used = g_hash_table_lookup(remote->used, file);

    return used != NULL ? *used : 0;
}

/* Images */

/* Parses hex bytes separated by spaces. */
static void read_header(const char *text, FlFacts *facts)
{
    unsigned byte;
    int n;

    for (facts->length = 0;
         facts->length < FL_FACTS_HEADER && sscanf(text, "%2x%n", &byte, &n) == 1; text += n)
        facts->header[facts->length++] = (unsigned char)byte;
}

void fl_remote_facts(FlRemote *remote, const char *path, FlFacts *facts)
{
    const char *const args[] = {path, NULL};
    g_autofree char *output = remote->ssh != NULL ? run(remote, FL_SCRIPT_FACTS, args, NULL) : NULL;
    g_auto(GStrv) parts = g_strsplit(output != NULL ? output : "", "\n", 2);
    const char *first = parts[0] != NULL ? parts[0] : "";
    bool more = parts[0] != NULL && parts[1] != NULL;
    uint64_t inode;
    gint64 second;
    unsigned nanosecond;

    facts->length = 0;
    if (sscanf(first, "file %" G_GUINT64_FORMAT " %" G_GINT64_FORMAT ".%9u", &inode, &second,
               &nanosecond) == 3 &&
        second > 0)
        facts->what = fl_facts_file(inode, second, nanosecond);
    else if (sscanf(first, "file %" G_GUINT64_FORMAT, &inode) == 1)
        facts->what = g_strdup_printf("file %" G_GUINT64_FORMAT " %s", inode, path);
    else if (g_str_has_prefix(first, "volume ") && first[strlen("volume ")] != '\0')
        facts->what = g_strdup(first);
    else
        facts->what = g_strconcat("path ", path, NULL);
    if (more)
        read_header(parts[1], facts);
}

/* Files of images, and the storage daemon that serves them */

/* Returns the words of LINE of LIST that change when the contents of the file may have. */
static char *identity_of(const char *line)
{
    const char *last = strrchr(line, ' ');

    return g_str_has_prefix(line, "file ") ? g_strndup(line, (gsize)(last - line)) : g_strdup(line);
}

bool fl_remote_file(FlRemote *remote, const char *path, FlRemoteFile *file, GError **error)
{
    const char *const args[] = {path, NULL};
    g_autofree char *line = run(remote, FL_SCRIPT_LOOK, args, error);
    FlRemoteFile found = {0};
    gint64 mtime = 0, ctime = 0;
    unsigned mtime_ns = 0, ctime_ns = 0;

    if (line == NULL)
        return false;
    g_strchomp(line);
    found.device = g_str_has_prefix(line, "device ");
    if (!found.device &&
        sscanf(line,
               "file %*s %" G_GUINT64_FORMAT " %" G_GINT64_FORMAT ".%9u %" G_GINT64_FORMAT ".%9u",
               &found.size, &mtime, &mtime_ns, &ctime, &ctime_ns) != 5)
        return fl_fail(error, "%s", line);
    found.mtime = (struct timespec){.tv_sec = mtime, .tv_nsec = mtime_ns};
    found.ctime = (struct timespec){.tv_sec = ctime, .tv_nsec = ctime_ns};
    found.identity = identity_of(line);
    *file = found;
    return true;
}

const char *fl_remote_daemon_start(FlRemote *remote, const char *folder, GError **error)
{
    const char *const args[] = {folder, NULL};
    g_autofree char *nbd = g_build_filename(folder, "nbd", NULL);
    g_autofree char *qmp = g_build_filename(folder, "qmp", NULL);
    g_autofree char *output = run(remote, FL_SCRIPT_SERVE, args, error);

    if (output == NULL)
        return NULL;
    if (remote->qmp == NULL)
        remote->qmp = fl_ssh_forward(remote->ssh, "qmp", qmp, error);
    if (remote->qmp == NULL ||
        (remote->nbd == NULL && fl_remote_serve(remote, nbd, NULL, error) == NULL)) {
        fl_remote_daemon_end(remote, folder);
        return NULL;
    }
    return remote->qmp;
}

bool fl_remote_daemon_ready(FlRemote *remote, const char *folder, GError **error)
{
    const char *const args[] = {folder, NULL};
    g_autofree char *output = run(remote, FL_SCRIPT_READY, args, error);

    return output != NULL;
}

const char *fl_remote_daemon_uri(const FlRemote *remote)
{
    return remote->nbd;
}

char **fl_remote_daemon_keep(FlRemote *remote, const char *folder, const GPtrArray *paths,
                             bool *kept, GError **error)
{
    g_autoptr(GPtrArray) args = g_ptr_array_new();
    g_autofree char *output = NULL;
    g_auto(GStrv) lines = NULL;
    char **identities;

    g_ptr_array_add(args, (char *)folder);
    for (guint i = 0; i < paths->len; i++)
        g_ptr_array_add(args, paths->pdata[i]);
    g_ptr_array_add(args, NULL);
    output = run(remote, FL_SCRIPT_KEEP, (const char *const *)args->pdata, error);
    if (output == NULL)
        return NULL;
    lines = g_strsplit(g_strchomp(output), "\n", -1);
    if (g_strv_length(lines) != paths->len + 1) {
        fl_fail(error, "on %s: unexpected reply: %s", remote->host, output);
        return NULL;
    }
    *kept = g_str_equal(lines[0], "kept");
    identities = g_new0(char *, paths->len + 1);
    for (guint i = 0; i < paths->len; i++)
        identities[i] = identity_of(lines[i + 1]);
    return identities;
}

bool fl_remote_daemon_end(FlRemote *remote, const char *folder)
{
    const char *const args[] = {folder, NULL};
    g_autofree char *output = run(remote, FL_SCRIPT_END, args, NULL);

    return output != NULL;
}
