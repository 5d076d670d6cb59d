/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The connection to libvirtd, which may end and come back while the VM goes on. */
#include "backup/libvirt-session.h"

#include <libvirt/virterror.h>
#include <string.h>

/* Microseconds between attempts to connect again. */
#define RETRY_INTERVAL 100000

unsigned fl_libvirt_patience(const FlLibvirtSession *session)
{
    unsigned seconds = session->backup.options->timeout;

    return (seconds != 0 ? MIN(seconds, 86400) : 30) * 1000;
}

bool fl_libvirt_fail(GError **error, const char *format, ...)
{
    g_autofree char *subject = NULL;
    g_autofree char *line = g_strdelimit(g_strdup(virGetLastErrorMessage()), "\n", ' ');
    va_list args;

    va_start(args, format);
    subject = g_strdup_vprintf(format, args);
    va_end(args);
    return fl_fail(error, "%s: %s", subject, line);
}

/* libvirt prints errors itself unless it is given something else to do with them. */
static void ignore_error(void *opaque, virErrorPtr error)
{
}

void fl_libvirt_disconnect(FlLibvirtSession *session)
{
    if (session->domain != NULL)
        virDomainFree(session->domain);
    if (session->connection != NULL)
        virConnectClose(session->connection);
    session->domain = NULL;
    session->connection = NULL;
}

static virDomainPtr find_domain(virConnectPtr connection, const char *name)
{
    virDomainPtr domain = virDomainLookupByName(connection, name);

    if (domain == NULL && g_uuid_string_is_valid(name))
        domain = virDomainLookupByUUIDString(connection, name);
    return domain;
}

/* The socket and the scratch files are reached as files. */
static bool is_local(virConnectPtr connection)
{
    char *text = virConnectGetURI(connection);
    g_autoptr(GUri) uri = text != NULL ? g_uri_parse(text, G_URI_FLAGS_NONE, NULL) : NULL;
    const char *host = uri != NULL ? g_uri_get_host(uri) : NULL;

    free(text);
    return host == NULL || *host == '\0';
}

bool fl_libvirt_connect(FlLibvirtSession *session, GError **error)
{
    const char *type;

    virSetErrorFunc(NULL, ignore_error);
    session->connection = virConnectOpenAuth(session->uri, virConnectAuthPtrDefault, 0);
    if (session->connection == NULL)
        return fl_libvirt_fail(error, "cannot connect to libvirt%s%s", session->uri ? " at " : "",
                               session->uri ? session->uri : "");
    type = virConnectGetType(session->connection);
    if (g_strcmp0(type, "QEMU") != 0)
        return fl_fail(error,
                       "this libvirt runs VMs by %s, not QEMU; ?connect=URI names another, like "
                       "qemu:///system",
                       type != NULL ? type : "something unknown");
    if (!is_local(session->connection))
        return fl_fail(error, "this libvirt is on another host; run fleecefs there");
    session->domain = find_domain(session->connection, session->name);
    if (session->domain == NULL)
        return fl_libvirt_fail(error, "there is no such domain");
    if (virDomainGetUUID(session->domain, session->uuid) < 0)
        return fl_libvirt_fail(error, "domain");
    return true;
}

static bool connect_again(FlLibvirtSession *session)
{
    virConnectPtr connection = virConnectOpenAuth(session->uri, virConnectAuthPtrDefault, 0);
    virDomainPtr domain;

    if (connection == NULL)
        return false;
    domain = virDomainLookupByUUID(connection, session->uuid);
    session->gone = domain == NULL && virGetLastErrorCode() == VIR_ERR_NO_DOMAIN;
    if (domain == NULL) {
        virConnectClose(connection);
        return false;
    }
    fl_libvirt_disconnect(session);
    session->connection = connection;
    session->domain = domain;
    return true;
}

bool fl_libvirt_again(FlLibvirtSession *session, unsigned patience)
{
    gint64 deadline = g_get_monotonic_time() + (gint64)patience * 1000;
    int domain = virGetLastErrorDomain();

    /* Everything else libvirtd itself had to say. */
    if (domain != VIR_FROM_RPC && domain != VIR_FROM_REMOTE)
        return false;
    while (!session->gone && !connect_again(session)) {
        if (g_get_monotonic_time() >= deadline)
            return false;
        g_usleep(RETRY_INTERVAL);
    }
    return !session->gone;
}

int fl_libvirt_active(FlLibvirtSession *session, GError **error)
{
    int active;

    do
        active = virDomainIsActive(session->domain);
    while (active < 0 && fl_libvirt_again(session, fl_libvirt_patience(session)));
    if (active < 0 && (session->gone || virGetLastErrorCode() == VIR_ERR_NO_DOMAIN))
        return 0;
    if (active < 0)
        fl_libvirt_fail(error, "domain");
    return active;
}

char *fl_libvirt_domain_xml(FlLibvirtSession *session, GError **error)
{
    char *xml, *copy;

    do
        xml = virDomainGetXMLDesc(session->domain, 0);
    while (xml == NULL && fl_libvirt_again(session, fl_libvirt_patience(session)));
    if (xml == NULL) {
        fl_libvirt_fail(error, "domain");
        return NULL;
    }
    copy = g_strdup(xml);
    free(xml);
    return copy;
}
