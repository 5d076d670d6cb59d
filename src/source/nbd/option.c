/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "option.h"

#include <errno.h>
#include <string.h>

/* An option in progress and its result. libnbd holds a reference as long as it may call back. */
typedef struct {
    gatomicrefcount refs;
    bool done;
    int error;          /* errno, 0 for success */
    GPtrArray *strings; /* NULL unless the option lists something */
    unsigned limit;
    bool over; /* more strings than LIMIT arrived */
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
        return fl_fail_lost(error, "%s", fl_nbd_error());
    if (!fl_nbd_wait(nbd, option_is_done, option, wait, error))
        return false;
    if (option->error == 0)
        return true;
    /* libnbd has no errno for this case, only a message. */
    if (option->error == ENOTSUP && nbd_get_tls_negotiated(nbd) <= 0 && nbd_get_error() != NULL &&
        strstr(nbd_get_error(), "TLS") != NULL)
        return fl_fail(error, "the server requires TLS: use nbds: instead of nbd:");
    if (option->error == ENOENT)
        return fl_fail_lost(error, "the server has no such export");
    return fl_fail_lost(error, "the server refused: %s", g_strerror(option->error));
}

static nbd_completion_callback completion(Option *option)
{
    g_atomic_ref_count_inc(&option->refs);
    return (nbd_completion_callback){
        .callback = option_done, .user_data = option, .free = option_unref};
}

bool fl_option_go(struct nbd_handle *nbd, const FlWait *wait, GError **error)
{
    g_autoptr(Option) option = option_new(0);

    if (nbd_aio_is_ready(nbd))
        return true;
    return option_wait(nbd, nbd_aio_opt_go(nbd, completion(option)), option, wait, error);
}

bool fl_option_info(struct nbd_handle *nbd, const FlWait *wait, GError **error)
{
    g_autoptr(Option) option = option_new(0);

    if (option_wait(nbd, nbd_aio_opt_info(nbd, completion(option)), option, wait, error))
        return true;
    if (option->done && option->error != ENOENT && g_error_matches(*error, FL_ERROR, FL_ERROR_LOST))
        g_clear_error(error);
    return false;
}

bool fl_option_exports(struct nbd_handle *nbd, const FlWait *wait, GPtrArray **names,
                       GError **error)
{
    g_autoptr(Option) option = option_new(FL_EXPORTS_MAX);
    nbd_list_callback list = {.callback = list_export, .user_data = option, .free = option_unref};

    if (!nbd_aio_is_negotiating(nbd))
        return true;
    g_atomic_ref_count_inc(&option->refs);
    if (option_wait(nbd, nbd_aio_opt_list(nbd, list, completion(option)), option, wait, NULL))
        *names = g_ptr_array_ref(option->strings);
    return !option->over || fl_fail(error, "the server has more than %u exports", FL_EXPORTS_MAX);
}

bool fl_option_contexts(struct nbd_handle *nbd, const FlWait *wait, GPtrArray **names,
                        GError **error)
{
    g_autoptr(Option) option = option_new(FL_CONTEXTS_MAX);
    nbd_context_callback list = {
        .callback = list_context, .user_data = option, .free = option_unref};

    g_atomic_ref_count_inc(&option->refs);
    if (option_wait(nbd, nbd_aio_opt_list_meta_context(nbd, list, completion(option)), option, wait,
                    NULL)) {
        g_ptr_array_unref(*names);
        *names = g_ptr_array_ref(option->strings);
    }
    return !option->over || fl_fail(error, "it has more than %u meta contexts", FL_CONTEXTS_MAX);
}
