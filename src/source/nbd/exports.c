/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "exports.h"

#include "map/context.h"
#include "option.h"
#include "wait.h"

#include <string.h>

/* Memory per export and per context besides their names: files and nodes. */
#define EXPORT_BYTES  2048u
#define CONTEXT_BYTES 1024u

#define ADD_ONE ": add one to the server (qemu-storage-daemon: --export; QEMU: block-export-add)"

/* Charges INFO of an export to the budget; fails if all exports together take too much. */
static bool remember_info(FlEndpoint *endpoint, const FlExportInfo *info, GError **error)
{
    uint64_t bytes = EXPORT_BYTES + strlen(info->name);

    if (info->description != NULL)
        bytes += strlen(info->description);
    for (guint i = 0; i < info->contexts->len; i++)
        bytes += CONTEXT_BYTES + strlen(info->contexts->pdata[i]);
    return fl_budget_take(fl_endpoint_budget(endpoint), bytes, FL_REMEMBER_NAMES_MAX) ||
           fl_fail(error,
                   "the names of its exports and meta contexts take more than %u MiB, together "
                   "with those of the sources before it",
                   (unsigned)(FL_REMEMBER_NAMES_MAX >> 20));
}

static uint32_t block_size(struct nbd_handle *nbd, int which, uint32_t fallback)
{
    int64_t size = nbd_get_block_size(nbd, which);

    return size > 0 && size <= UINT32_MAX ? (uint32_t)size : fallback;
}

static FlExportInfo *read_info(struct nbd_handle *nbd, const char *name, GError **error)
{
    g_autoptr(FlExportInfo) info = NULL;
    int64_t size = nbd_get_size(nbd);

    if (size < 0) {
        fl_fail(error, "cannot use the size of export \"%s\": %s", name, fl_nbd_error());
        return NULL;
    }
    info = fl_export_info_new(name, (uint64_t)size);
    info->description = nbd_get_export_description(nbd);
    if (info->description != NULL && *info->description == '\0')
        g_clear_pointer(&info->description, free);
    /* Ignore values that the protocol forbids ("Block size constraints"). */
    info->block_min = block_size(nbd, LIBNBD_SIZE_MINIMUM, 1);
    if (info->block_min > 64 << 10 || (info->block_min & (info->block_min - 1)) != 0)
        info->block_min = 1;
    info->block_preferred = block_size(nbd, LIBNBD_SIZE_PREFERRED, 4096);
    info->block_max =
        MAX(block_size(nbd, LIBNBD_SIZE_MAXIMUM, 32 << 20), MAX(info->block_min, 512));
    info->multi_conn = nbd_can_multi_conn(nbd) > 0;
    return g_steal_pointer(&info);
}

/* Queries an export without entering it; NULL without an error if the server does not support
 * that. */
static FlExportInfo *ask_info(struct nbd_handle *nbd, const char *name, const FlWait *wait,
                              GError **error)
{
    g_autoptr(FlExportInfo) info = NULL;

    if (nbd_set_export_name(nbd, name) < 0) {
        fl_fail(error, "export \"%s\": %s", name, fl_nbd_error());
        return NULL;
    }
    if (!fl_option_info(nbd, wait, error))
        return NULL;
    info = read_info(nbd, name, error);
    /* Without structured replies no server provides a context, though some list them. */
    if (info == NULL || nbd_get_structured_replies_negotiated(nbd) <= 0)
        return g_steal_pointer(&info);
    if (!fl_option_contexts(nbd, wait, &info->contexts, error)) {
        g_prefix_error(error, "export \"%s\": ", name);
        return NULL;
    }
    return g_steal_pointer(&info);
}

/* Enters the export to query it: for servers without NBD_OPT_INFO. */
static FlExportInfo *enter_info(FlEndpoint *endpoint, const char *name, const FlWait *wait,
                                GError **error)
{
    static const char *const usual[] = {FL_CONTEXT_NAME_ALLOCATION, FL_CONTEXT_NAME_DEPTH, NULL};
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

/* Says that the server does not have the export NAME, or a default one if NAME is NULL. NAMES:
 * those that it lists; NULL: it does not list them. */
static bool no_such_export(const FlEndpoint *endpoint, const char *name, const GPtrArray *names,
                           GError **error)
{
    const char *label = fl_endpoint_label(endpoint);
    g_autoptr(GString) known = g_string_new(NULL);
    guint shown = names != NULL ? MIN(names->len, 20) : 0;

    if (name == NULL && names == NULL)
        return fl_fail(error,
                       "%s does not list its exports and has no default one: name one, "
                       "nbd://HOST/EXPORT or nbd+unix:///EXPORT?socket=PATH",
                       label);
    if (name == NULL)
        return fl_fail(error, "%s has no exports" ADD_ONE, label);
    if (names != NULL && shown == 0)
        return fl_fail(error, "%s has no export \"%s\" and lists none" ADD_ONE, label, name);
    for (guint i = 0; i < shown; i++)
        g_string_append_printf(known, "%s\"%s\"", i > 0 ? ", " : "", (char *)names->pdata[i]);
    return fl_fail(error, "%s has no export \"%s\"; %s%s%s", label, name,
                   shown > 0 ? "it has " : "it does not list its exports", known->str,
                   names != NULL && names->len > shown ? " and more" : "");
}

/* Whether WHY, the failure to query NAME, means that the server does not have it. */
static bool is_missing(struct nbd_handle *nbd, const char *name, GPtrArray *names,
                       const GError *why)
{
    if (!g_error_matches(why, FL_ERROR, FL_ERROR_LOST))
        return false;
    /* A server that went away or is silent has not refused the name. */
    if (names == NULL)
        return nbd_aio_is_negotiating(nbd);
    return names->len == 0 ||
           (name != NULL && !g_ptr_array_find_with_equal_func(names, name, g_str_equal, NULL));
}

/* Queries NAME by whatever method the server supports. */
static FlExportInfo *find_info(FlEndpoint *endpoint, struct nbd_handle *nbd, const char *name,
                               const FlWait *wait, GError **error)
{
    FlExportInfo *info = NULL;
    GError *why = NULL;

    if (nbd_aio_is_negotiating(nbd))
        info = ask_info(nbd, name, wait, &why);
    if (info == NULL && why == NULL) {
        info = enter_info(endpoint, name, wait, &why);
    } else if (info != NULL && info->size == 0) {
        /* nbd-server reports the size only when the export is entered. */
        g_autoptr(FlExportInfo) entered = enter_info(endpoint, name, wait, NULL);
        if (entered != NULL)
            info->size = entered->size;
    }
    if (info != NULL && !remember_info(endpoint, info, &why))
        g_clear_pointer(&info, fl_export_info_free);
    if (why != NULL)
        g_propagate_error(error, why);
    return info;
}

/* Adds the info of NAME to EXPORTS or, if NAME is NULL, of all exports that the server lists. */
static bool find_exports(FlEndpoint *endpoint, struct nbd_handle *nbd, const char *name,
                         GPtrArray *exports, const FlWait *wait, GError **error)
{
    g_autoptr(GPtrArray) names = NULL;
    g_autoptr(GError) why = NULL;
    bool all;

    if (!fl_option_exports(nbd, wait, &names, error)) {
        g_prefix_error(error, "%s: ", fl_endpoint_label(endpoint));
        return false;
    }
    all = name == NULL && names != NULL && names->len > 0;
    for (guint i = 0; i < (all ? names->len : 1); i++) {
        const char *wanted = all ? names->pdata[i] : name != NULL ? name : "";
        FlExportInfo *info = find_info(endpoint, nbd, wanted, wait, &why);

        if (info == NULL && is_missing(nbd, name, names, why))
            return no_such_export(endpoint, name, names, error);
        if (info == NULL) {
            const char *label = fl_endpoint_label(endpoint);

            if (strstr(why->message, label) == NULL)
                g_prefix_error(&why, "%s: ", label);
            g_propagate_error(error, g_steal_pointer(&why));
            return false;
        }
        g_ptr_array_add(exports, info);
    }
    return true;
}

/* Enters the only export, with all contexts needed later, and keeps the connection. Takes over
 * NBD. */
static void keep_only(FlEndpoint *endpoint, struct nbd_handle *nbd, const FlExportInfo *info,
                      const FlWait *wait)
{
    fl_endpoint_set_only(endpoint, info->name);
    for (guint i = 0; i < info->contexts->len; i++)
        nbd_add_meta_context(nbd, info->contexts->pdata[i]);
    nbd_set_export_name(nbd, info->name);
    if (info->size > 0 && fl_option_go(nbd, wait, NULL) && nbd_get_size(nbd) == (int64_t)info->size)
        fl_endpoint_keep(endpoint, info->name, nbd);
    else
        fl_nbd_close(nbd);
}

GPtrArray *fl_nbd_exports(FlEndpoint *endpoint, const char *name, const FlWait *wait,
                          GError **error)
{
    struct nbd_handle *nbd = fl_endpoint_connect(endpoint, true, wait, error);
    g_autoptr(GPtrArray) exports =
        g_ptr_array_new_with_free_func((GDestroyNotify)fl_export_info_free);
    g_autofree char *in_uri = nbd != NULL && name == NULL ? nbd_get_export_name(nbd) : NULL;
    const char *wanted = in_uri != NULL && *in_uri != '\0' ? in_uri : name;

    if (nbd == NULL || !find_exports(endpoint, nbd, wanted, exports, wait, error)) {
        fl_nbd_close(nbd);
        return NULL;
    }
    if (name == NULL && exports->len == 1) {
        FlExportInfo *only = exports->pdata[0];

        /* By default qemu-nbd serves one client and exits with it. */
        only->ends_with_last = !only->multi_conn;
        keep_only(endpoint, nbd, only, wait);
    } else {
        fl_nbd_close(nbd);
    }
    return g_steal_pointer(&exports);
}
