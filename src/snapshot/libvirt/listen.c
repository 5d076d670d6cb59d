/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "snapshot/libvirt/listen.h"

#include "snapshot/session.h"
#include "source/nbd/nbd.h"

#include <netdb.h>
#include <string.h>
#include <sys/socket.h>

/* NBD's port, and enough ports for a host with many VMs. */
#define FIRST_PORT 10809
#define LAST_PORT  10872

/* "10809" or "10809-10872" */
static bool parse_ports(const char *text, FlListen *listen)
{
    g_auto(GStrv) parts = g_strsplit(text, "-", 2);
    guint64 first, last;

    if (!g_ascii_string_to_unsigned(parts[0] != NULL ? parts[0] : "", 10, 1, 65535, &first, NULL))
        return false;
    last = first;
    if (parts[1] != NULL && !g_ascii_string_to_unsigned(parts[1], 10, first, 65535, &last, NULL))
        return false;
    listen->first = (unsigned)first;
    listen->last = (unsigned)last;
    return true;
}

/* ADDRESS[:PORTS], [ADDRESS][:PORTS] or :PORTS */
static bool parse(const char *value, FlListen *listen)
{
    const char *end = value[0] == '[' ? strchr(value, ']') : NULL;
    const char *ports = strchr(end != NULL ? end : value, ':');

    listen->first = FIRST_PORT;
    listen->last = LAST_PORT;
    if (value[0] == '\0' || (value[0] == '[' && end == NULL))
        return false;
    if (end != NULL && end[1] != '\0' && end[1] != ':')
        return false;
    if (end != NULL)
        listen->address = g_strndup(value + 1, (gsize)(end - value - 1));
    else if (ports != value)
        listen->address =
            ports != NULL ? g_strndup(value, (gsize)(ports - value)) : g_strdup(value);
    return (listen->address == NULL || listen->address[0] != '\0') &&
           (ports == NULL || parse_ports(ports + 1, listen));
}

bool fl_listen_check(const char *value, GError **error)
{
    FlListen listen = {0};
    bool ok = parse(value, &listen);

    fl_listen_clear(&listen);
    return ok || fl_fail_usage(error,
                               "'%s' is not ADDRESS[:PORTS], such as 192.0.2.1:10809-10872, "
                               "[2001:db8::1] or :10809",
                               value);
}

void fl_listen_clear(FlListen *listen)
{
    g_clear_pointer(&listen->certificates, g_free);
    g_clear_pointer(&listen->address, g_free);
}

bool fl_listen_init(FlListen *listen, const FlSnapshotOptions *options, GError **error)
{
    const char *certificates = fl_snapshot_own_option(options, "nbd_tls");
    const char *value = fl_snapshot_own_option(options, "nbd_listen");
    g_autofree char *uri = NULL;

    *listen = (FlListen){.first = FIRST_PORT, .last = LAST_PORT};
    if (certificates == NULL)
        return value == NULL || fl_fail_usage(error, "option nbd_listen requires nbd_tls=DIR: "
                                                     "otherwise there is no such server");
    listen->certificates = g_canonicalize_filename(certificates, NULL);
    if (value != NULL)
        parse(value, listen);
    uri = fl_listen_uri(listen, "host");
    if (fl_source_nbd_check(uri, error))
        return true;
    g_prefix_error(error, "option nbd_tls: ");
    return false;
}

bool fl_listen_next(FlListen *listen)
{
    unsigned count = listen->last - listen->first + 1;

    if (listen->tried == count)
        return false;
    /* Start at a random port: sessions that begin at the same time would otherwise all collide on
     * the first ones. */
    if (listen->tried++ == 0)
        listen->port = listen->first + g_random_int() % count;
    else
        listen->port = listen->port == listen->last ? listen->first : listen->port + 1;
    return true;
}

char *fl_listen_address(const FlListen *listen, const char *host, GError **error)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_ADDRCONFIG};
    struct addrinfo *found = NULL;
    char text[NI_MAXHOST] = "";
    int r;

    if (listen->address != NULL)
        return g_strdup(listen->address);
    r = getaddrinfo(host, NULL, &hints, &found);
    if (r == 0)
        r = getnameinfo(found->ai_addr, found->ai_addrlen, text, sizeof text, NULL, 0,
                        NI_NUMERICHOST);
    if (found != NULL)
        freeaddrinfo(found);
    if (r == 0)
        return g_strdup(text);
    fl_fail(error, "%s: %s; give an address of that host with -o nbd_listen=ADDRESS", host,
            gai_strerror(r));
    return NULL;
}

char *fl_listen_uri(const FlListen *listen, const char *host)
{
    g_autofree char *escaped = g_uri_escape_string(listen->certificates, "/", FALSE);
    g_autofree char *query = g_strconcat("tls-certificates=", escaped, NULL);

    return g_uri_join(G_URI_FLAGS_ENCODED_QUERY, "nbds", NULL, host,
                      listen->port != 0 ? (gint)listen->port : -1, "/", query, NULL);
}
