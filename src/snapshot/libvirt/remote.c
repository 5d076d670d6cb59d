/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "snapshot/libvirt/remote.h"

#include "util/clients.h"
#include "util/ssh.h"

#include <stdio.h>
#include <string.h>

struct FlRemote {
    FlSsh *ssh; /* NULL: libvirt is reached over TLS or TCP */
    char *host;
    char *libvirt;      /* libvirt's URI */
    char *there;        /* libvirt's socket on the host; NULL without ssh */
    char *pki;          /* certificate folder named in the URI; NULL if none */
    char *nbd;          /* NBD URI; NULL until something is served */
    const char *socket; /* local socket of NBD */
    bool asked;
    uint64_t room;
    GHashTable *used; /* of char * to uint64_t * */
};

enum { SOCKET, WHY, MAKE, REMOVE, ROOM, FACTS, CLIENTS, N_SCRIPTS };

/* Portable to any sh(1), and the coreutils of any Linux that has libvirt. */
static const char *const scripts[N_SCRIPTS + 1] = {
    /* The socket of libvirtd or virtqemud; $1 is "system" or "session", $2 a socket to use instead.
     */
    [SOCKET] = "if [ -n \"$2\" ]; then printf %s \"$2\"; exit 0; fi\n"
               "if [ \"$1\" = session ]; then d=${XDG_RUNTIME_DIR:-/run/user/$(id "
               "-u)}/libvirt\nelse d=/run/libvirt; fi\nfor s in libvirt-sock virtqemud-sock; do\n  "
               "  if [ -S \"$d/$s\" ]; then printf %s \"$d/$s\"; exit 0; fi\ndone\necho \"no "
               "socket of libvirt in $d: check that libvirtd or virtqemud runs\" >&2\nexit 1",
    /* Fails with the reason why socket $1 cannot be forwarded; ssh is told none. */
    [WHY] = "if [ ! -S \"$1\" ]; then echo \"no socket $1: check that libvirtd runs\"\n"
            "elif [ ! -w \"$1\" ]; then\n"
            "    echo \"user $(id -un) has no access to $1: add the user to group\"\\\n"
            "         \"$(stat -L -c %G -- \"$1\"), or log in as root\"\n"
            "else\n"
            "    echo \"nothing listens at $1, or sshd does not forward it\"\\\n"
            "         '(AllowStreamLocalForwarding)'\n"
            "fi >&2\n"
            "exit 1",
    /* Creates folder $1 for user $2 and group $3. Root gives it away. Another user keeps it and
     * lets $2 in by an ACL; the socket that QEMU makes there with umask 002 gets the folder's
     * group, by which this user can connect. The other members of that group cannot enter the
     * folder. */
    [MAKE] = "umask 077; mkdir -- \"$1\" || exit 1\n"
             "me=$(id -u); [ \"$2\" -ge 0 ] && [ \"$me\" != \"$2\" ] || exit 0\n"
             "if [ \"$me\" = 0 ]; then chown -h -- \"$2:$3\" \"$1\"; exit; fi\n"
             "e=$( (chgrp -- \"$(id -g)\" \"$1\" && chmod 2700 -- \"$1\" &&\n"
             "      setfacl -m \"u:$2:rwx\" -- \"$1\") 2>&1) && exit\n"
             "rmdir -- \"$1\"\n"
             "a='install setfacl there (package acl), or log in as root'\n"
             "! command -v setfacl >/dev/null ||\n"
             "    a=\"choose one with ACLs (-o scratch=DIR), or log in as root: $e\"\n"
             "echo \"only an ACL lets the VM's process, of user $2, into a folder of user\"\\\n"
             "     \"$(id -un): $a\" >&2\n"
             "exit 1",
    [REMOVE] =
        "d=${1%/}\n"
        "case ${d##*/} in fleecefs-?*) ;; *) exit 1 ;; esac\n"
        "if [ \"$d\" = \"$1\" ]; then rm -f -- \"$1\"*\n"
        "elif [ -d \"$d\" ] && [ ! -L \"$d\" ]; then rm -f -- \"$d\"/* && rmdir -- \"$d\"; fi",
    /* Free space at $1, and space used by the files in folder $2 if that exists. */
    [ROOM] = "stat -f -c 'room %a %S' -- \"$1\" || exit 1\n"
             "cd -- \"$2\" 2>/dev/null && stat -c 'used %b %B %n' -- * 2>/dev/null\n"
             "exit 0",
    [FACTS] = "if [ -f \"$1\" ]; then stat -L -c 'file %i %.9W' -- \"$1\"\n"
              "elif [ -b \"$1\" ]; then\n"
              "    echo volume $(cat /sys/dev/block/$(stat -L -c %Hr:%Lr -- \"$1\")/dm/uuid)\n"
              "fi 2>/dev/null\n"
              "[ ! -f \"$1\" ] && [ ! -b \"$1\" ] || od -An -v -tx1 -N4096 -- \"$1\" 2>/dev/null\n"
              "exit 0",
    /* See proc(5). A connection is listed under the name of the socket it was made to. */
    [CLIENTS] = "grep -F -- \"$1\" /proc/net/unix | {\n"
                "    listens=0 count=0\n"
                "    while read -r a b c flags d e f path; do\n"
                "        [ \"$path\" = \"$1\" ] || continue\n"
                "        if [ \"$flags\" = 00010000 ]; then listens=1\n"
                "        else count=$((count + 1)); fi\n"
                "    done\n"
                "    echo \"$listens $count\"\n"
                "}",
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
        .scripts = scripts,
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
    socket = fl_ssh_run(remote->ssh, SOCKET, args, error);
    here = socket != NULL ? fl_ssh_forward(remote->ssh, "libvirt", socket, error) : NULL;
    if (here == NULL)
        return false;
    remote->there = g_steal_pointer(&socket);
    remote->libvirt = g_strdup_printf("qemu+unix://%s?socket=%s", path, here);
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
    g_free(run(remote, WHY, args, &why));
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
    g_autofree char *output = run(remote, MAKE, args, error);

    return output != NULL;
}

bool fl_remote_remove(FlRemote *remote, const char *stem, GError **error)
{
    const char *const args[] = {stem, NULL};
    g_autofree char *output = run(remote, REMOVE, args, error);

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

int fl_remote_clients(FlRemote *remote, const char *socket)
{
    const char *const args[] = {socket, NULL};
    g_autofree char *output = remote->ssh != NULL ? run(remote, CLIENTS, args, NULL) : NULL;
    int listens = 0, count = 0;

    if (output == NULL || sscanf(output, "%d %d", &listens, &count) != 2 || listens == 0)
        return -1;
    return MAX(count - (remote->socket != NULL ? fl_clients_own(remote->socket) : 0), 0);
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
    g_autofree char *output = run(remote, ROOM, args, error);

    if (output == NULL)
        return false;
    remote->room = UINT64_MAX;
    read_room(remote, output);
    *room = remote->room;
    return *room != UINT64_MAX ||
           fl_fail(error, "on %s: the free space in %s is unknown", remote->host, path);
}

bool fl_remote_look(FlRemote *remote, const char *path, const char *directory)
{
    const char *const args[] = {path, directory, NULL};
    g_autofree char *output = NULL;
    bool done = true;

    if (remote->asked)
        output = fl_ssh_take(remote->ssh, &done);
    if (output != NULL)
        read_room(remote, output);
    if (done)
        fl_ssh_ask(remote->ssh, ROOM, args);
    remote->asked = true;
    return output != NULL;
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
    g_autofree char *output = remote->ssh != NULL ? run(remote, FACTS, args, NULL) : NULL;
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
