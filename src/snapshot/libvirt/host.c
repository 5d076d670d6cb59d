/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The connection to libvirtd, which may hang or restart while the VM keeps running. */
#include "snapshot/libvirt/session.h"
#include "util/deadline.h"

#include <libvirt/virterror.h>
#include <stdlib.h>

/* Microseconds between attempts to reconnect. */
#define RETRY_INTERVAL 100000
/* Milliseconds: minimum timeout once libvirtd has used up its time. */
#define LEAST_TIMEOUT 2000

static gint64 timeout(const FlLibvirtSession *session)
{
    unsigned seconds = session->backup.options->timeout;

    return (gint64)(seconds != 0 ? MIN(seconds, 86400) : 30) * 1000;
}

/* Milliseconds that libvirtd has left to answer, counted from when it was lost. */
static unsigned patience(const FlLibvirtSession *session)
{
    gint64 spent =
        session->away_since == 0 ? 0 : (g_get_monotonic_time() - session->away_since) / 1000;

    return (unsigned)MAX(timeout(session) - spent, LEAST_TIMEOUT);
}

bool fl_libvirt_fail(GError **error, const FlLibvirtCall *call, const char *format, ...)
{
    g_autofree char *subject = NULL;
    va_list args;

    va_start(args, format);
    subject = g_strdup_vprintf(format, args);
    va_end(args);
    if (call->interrupted)
        return fl_fail(error, "interrupted by a signal");
    return fl_fail(error, "%s: %s", subject,
                   call->silent ? "libvirt does not answer in time (-o timeout=); if libvirtd "
                                  "hangs, restart it; VMs keep running"
                                : call->message);
}

/* libvirt prints errors to stderr unless an error function is set. */
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

/* Connects to CALL->text and finds domain CALL->more, by UUID only if CALL->number is not 0.
 * CALL->strings gets the connection's type and URI. */
static bool ask_open(FlLibvirtCall *call)
{
    const char *type;
    char *uri;

    call->connection = virConnectOpenAuth(call->text, virConnectAuthPtrDefault, 0);
    if (call->connection == NULL || (type = virConnectGetType(call->connection)) == NULL ||
        (uri = virConnectGetURI(call->connection)) == NULL)
        return false;
    call->strings = g_ptr_array_new_with_free_func(g_free);
    g_ptr_array_add(call->strings, g_strdup(type));
    g_ptr_array_add(call->strings, g_strdup(uri));
    free(uri);
    if (call->number == 0)
        call->domain = virDomainLookupByName(call->connection, call->more);
    if (call->domain == NULL && g_uuid_string_is_valid(call->more))
        call->domain = virDomainLookupByUUIDString(call->connection, call->more);
    return call->domain != NULL;
}

/* Runs CALL. If it succeeds, the session takes over its connection. */
static bool open_connection(FlLibvirtSession *session, FlLibvirtCall *call, unsigned timeout_ms)
{
    bool ok = fl_libvirt_call_run(call, timeout_ms);

    session->gone = !ok && !call->silent && call->code == VIR_ERR_NO_DOMAIN;
    if (!ok)
        return false;
    fl_libvirt_disconnect(session);
    session->connection = g_steal_pointer(&call->connection);
    session->domain = g_steal_pointer(&call->domain);
    return true;
}

/* The URI for libvirt's functions: a remote libvirtd is reached as if it were local. */
static const char *address(const FlLibvirtSession *session)
{
    return session->remote != NULL ? fl_remote_libvirt(session->remote) : session->uri;
}

static bool open_remote(FlLibvirtSession *session, GError **error)
{
    const char *usual = g_getenv("LIBVIRT_DEFAULT_URI");

    if (session->uri == NULL && fl_remote_is(usual))
        session->uri = g_strdup(usual);
    if (session->remote != NULL || !fl_remote_is(session->uri))
        return true;
    session->remote = fl_remote_open(session->uri, (unsigned)(timeout(session) / 1000), error);
    return session->remote != NULL;
}

static bool fail_to_connect(FlLibvirtSession *session, const FlLibvirtCall *call, GError **error)
{
    g_autofree char *refusal = session->remote != NULL ? fl_remote_refusal(session->remote) : NULL;
    g_autofree char *said = session->remote != NULL ? fl_remote_complaint(session->remote) : NULL;

    /* To libvirt, the connection has just ended. */
    if (refusal != NULL && !call->interrupted)
        return fl_fail(error, "cannot connect to libvirt: %s", refusal);
    return fl_libvirt_fail(error, call,
                           "cannot connect to libvirt%s%s (check that libvirtd runs, and that the "
                           "user has access, as members of the group libvirt do; "
                           "libvirt:DOMAIN?connect=URI selects another%s%s)",
                           session->uri != NULL ? " at " : "",
                           session->uri != NULL ? session->uri : "", said != NULL ? "; ssh: " : "",
                           said != NULL ? said : "");
}

bool fl_libvirt_connect(FlLibvirtSession *session, GError **error)
{
    g_autoptr(FlLibvirtCall) call = NULL;
    bool found;

    if (!open_remote(session, error))
        return false;
    call = fl_libvirt_call_new(ask_open, address(session), session->name);
    virSetErrorFunc(NULL, ignore_error);
    found = open_connection(session, call, patience(session));
    if (call->silent || call->strings == NULL)
        return fail_to_connect(session, call, error);
    if (!g_str_equal(call->strings->pdata[0], "QEMU"))
        return fl_fail(error,
                       "this libvirt connection is for %s, not QEMU; ?connect=URI selects another, "
                       "such as qemu:///system",
                       (const char *)call->strings->pdata[0]);
    if (session->remote == NULL && fl_remote_is(call->strings->pdata[1]))
        return fl_fail(
            error,
            "this libvirt is on another host: write libvirt:DOMAIN?connect=qemu+ssh://HOST/system");
    if (!found)
        return fl_libvirt_fail(error, call, "no such domain; see virsh list --all");
    if (virDomainGetUUIDString(session->domain, session->uuid) < 0)
        return fl_fail(error, "libvirt does not know the UUID of the domain");
    return true;
}

/* Waits until libvirtd accepts a connection. CALL gets the error. */
static bool connect_again(FlLibvirtSession *session, FlLibvirtCall *call)
{
    gint64 end = g_get_monotonic_time() + (gint64)patience(session) * 1000;

    for (;;) {
        g_autoptr(FlLibvirtCall) open =
            fl_libvirt_call_new(ask_open, address(session), session->uuid);
        gint64 left = fl_deadline_left(end);

        open->number = 1;
        if (open_connection(session, open, (unsigned)(left / 1000)))
            return true;
        if (session->gone || open->silent || left == 0) {
            call->silent = open->silent;
            call->code = open->silent ? 0 : open->code;
            call->message = open->silent ? NULL : g_steal_pointer(&open->message);
            return false;
        }
        g_usleep(RETRY_INTERVAL);
    }
}

/* Whether CALL failed because libvirtd went away; libvirtd reports all other errors itself. */
static bool is_lost(const FlLibvirtCall *call)
{
    return !call->silent && (call->from == VIR_FROM_RPC || call->from == VIR_FROM_REMOTE);
}

bool fl_libvirt_ask_once(FlLibvirtSession *session, FlLibvirtCall *call)
{
    gint64 start = g_get_monotonic_time();
    bool ok;

    if (session->domain == NULL && !connect_again(session, call))
        return false;
    virDomainRef(session->domain);
    call->domain = session->domain;
    ok = fl_libvirt_call_run(call, patience(session) + call->extra);
    if (!call->silent && (ok || !is_lost(call))) {
        session->away_since = 0;
        return ok;
    }
    if (session->away_since == 0)
        session->away_since = call->silent ? start : g_get_monotonic_time();
    fl_libvirt_disconnect(session);
    return false;
}

bool fl_libvirt_ask(FlLibvirtSession *session, FlLibvirtCall *call)
{
    while (!fl_libvirt_ask_once(session, call)) {
        if (!is_lost(call) || session->domain != NULL ||
            g_get_monotonic_time() - session->away_since > timeout(session) * 1000)
            return false;
        fl_libvirt_call_reset(call);
        call->repeated = true;
    }
    return true;
}

static bool ask_active(FlLibvirtCall *call)
{
    return (call->value = virDomainIsActive(call->domain)) >= 0;
}

int fl_libvirt_active(FlLibvirtSession *session, GError **error)
{
    g_autoptr(FlLibvirtCall) call = fl_libvirt_call_new(ask_active, NULL, NULL);

    if (fl_libvirt_ask(session, call))
        return call->value != 0;
    if (!call->silent && call->code == VIR_ERR_NO_DOMAIN)
        return 0;
    fl_libvirt_fail(error, call, "domain");
    return -1;
}

static bool ask_xml(FlLibvirtCall *call)
{
    return fl_libvirt_call_take(call, virDomainGetXMLDesc(call->domain, 0));
}

char *fl_libvirt_domain_xml(FlLibvirtSession *session, GError **error)
{
    g_autoptr(FlLibvirtCall) call = fl_libvirt_call_new(ask_xml, NULL, NULL);

    if (fl_libvirt_ask(session, call))
        return g_steal_pointer(&call->string);
    fl_libvirt_fail(error, call, "domain");
    return NULL;
}
