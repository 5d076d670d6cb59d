/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "snapshot/provider.h"

const FlProvider *const fl_providers[] = {&fl_qmp_provider, &fl_libvirt_provider, NULL};

const FlProvider *fl_provider_find(const char *source)
{
    for (const FlProvider *const *p = fl_providers; *p != NULL; p++) {
        if (g_str_has_prefix(source, (*p)->prefix))
            return *p;
    }
    return NULL;
}

const FlSourceOption *fl_provider_option(const FlProvider *provider, const char *name)
{
    const FlSourceOption *option = provider->options;

    while (option != NULL && option->name != NULL && !g_str_equal(option->name, name))
        option++;
    return option != NULL && option->name != NULL ? option : NULL;
}

const FlSourceOption *fl_providers_option(const char *name)
{
    for (const FlProvider *const *p = fl_providers; *p != NULL; p++) {
        const FlSourceOption *option = fl_provider_option(*p, name);

        if (option != NULL)
            return option;
    }
    return NULL;
}

char *fl_providers_usage(void)
{
    GString *text = g_string_new(NULL);

    for (const FlProvider *const *p = fl_providers; *p != NULL; p++)
        g_string_append_printf(text, "%s%s", text->len > 0 ? " or " : "", (*p)->usage);
    return g_string_free(text, FALSE);
}
