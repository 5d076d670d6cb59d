/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source/nbd/nbd.h"

#include "blockstatus.h"
#include "conn.h"
#include "endpoint.h"
#include "exports.h"
#include "source/kind.h"
#include "tls.h"
#include "wait.h"

#include <string.h>

typedef struct {
    FlSource source; /* first */
    FlEndpoint *endpoint;
} NbdSource;

static FlEndpoint *endpoint_of(const FlSource *source)
{
    return ((const NbdSource *)source)->endpoint;
}

static GPtrArray *nbd_exports(FlSource *source, const char *name, const FlWait *wait,
                              GError **error)
{
    return fl_nbd_exports(endpoint_of(source), name, wait, error);
}

static FlConn *nbd_open(FlSource *source, const FlExportInfo *info, const char *const *contexts,
                        const FlWait *wait, GError **error)
{
    struct nbd_handle *nbd =
        fl_endpoint_open(endpoint_of(source), info->name, contexts, wait, error);

    if (nbd == NULL)
        return NULL;
    if (nbd_get_size(nbd) == (int64_t)info->size)
        return fl_nbd_conn_new(nbd);
    fl_fail_changed(error, "its size has changed");
    fl_nbd_close(nbd);
    return NULL;
}

static FlDiskMaps *nbd_load(FlSource *source, const FlExportInfo *info, const FlWait *wait,
                            GError **error)
{
    return fl_block_status_load(endpoint_of(source), info, wait, error);
}

static void nbd_allow(const FlSource *source, FlSandbox *sandbox)
{
    fl_endpoint_allow(endpoint_of(source), sandbox);
}

static void nbd_clear(FlSource *source)
{
    fl_endpoint_free(endpoint_of(source));
}

static const FlSourceOps nbd_ops = {
    .exports = nbd_exports,
    .open = nbd_open,
    .load = nbd_load,
    .allow = nbd_allow,
    .clear = nbd_clear,
};

/* Takes over ENDPOINT. */
static FlSource *new_source(FlEndpoint *endpoint)
{
    FlSource *source =
        fl_source_alloc(sizeof(NbdSource), &nbd_ops, fl_endpoint_label(endpoint), NULL);

    ((NbdSource *)source)->endpoint = endpoint;
    return source;
}

FlSource *fl_source_nbd_new_uri(const char *uri, FlBudget *budget)
{
    return new_source(fl_endpoint_new_uri(uri, budget));
}

FlSource *fl_source_nbd_new_socket(int fd, const char *label, FlBudget *budget)
{
    return new_source(fl_endpoint_new_socket(fd, label, budget));
}

FlSource *fl_source_nbd_new_path(const char *path, const char *label, FlBudget *budget)
{
    return new_source(fl_endpoint_new_path(path, label, budget));
}

bool fl_source_nbd_check(const char *uri, GError **error)
{
    struct nbd_handle *nbd = nbd_create();
    bool ok = nbd != NULL ? fl_tls_check(nbd, uri, error) : fl_fail(error, "%s", nbd_get_error());

    nbd_close(nbd);
    return ok;
}

/* The kind */

bool fl_source_is_nbd(const char *text)
{
    const char *scheme_end = strstr(text, ":");

    return (g_str_has_prefix(text, "nbd") && scheme_end != NULL &&
            memchr(text, '/', (size_t)(scheme_end - text)) == NULL) &&
           (text[3] == ':' || text[3] == '+' || text[3] == 's');
}

static bool is_nbd(const FlSourceSpec *spec)
{
    return spec->text != NULL && fl_source_is_nbd(spec->text);
}

static FlSource *open_nbd(const FlSourceSpec *spec, const FlSourceParams *params, GError **error)
{
    return fl_source_nbd_new_uri(spec->text, params->budget);
}

static char *nbd_label(const FlSourceSpec *spec)
{
    g_autoptr(FlSource) source = fl_source_nbd_new_uri(spec->text, NULL);

    return g_strdup(fl_source_label(source));
}

const FlSourceKind fl_source_kind_nbd = {.is = is_nbd, .open = open_nbd, .label = nbd_label};
