/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source/kind.h"

#include "source-kinds.h"

#include <string.h>

#define KIND(name) extern const FlSourceKind fl_source_kind_##name;
FL_SOURCE_KINDS
#undef KIND

#define KIND(name) &fl_source_kind_##name,
const FlSourceKind *const fl_source_kinds[] = {FL_SOURCE_KINDS NULL};

const char *fl_source_spec_text(const char *word)
{
    /* Accept only a plain word before '=', to leave URIs and paths that contain '=' alone. */
    size_t n = strcspn(word, "=/:?");

    return word[n] == '=' && n > 0 && *word != '.' ? word + n + 1 : word;
}

FlSourceSpec *fl_source_spec_new(const char *word, char **argv)
{
    FlSourceSpec *spec = g_new0(FlSourceSpec, 1);
    const char *text = fl_source_spec_text(word);

    if (text > word)
        spec->name = g_strndup(word, (size_t)(text - word) - 1);
    spec->text = argv == NULL ? g_strdup(text) : NULL;
    spec->argv = argv;
    return spec;
}

void fl_source_spec_free(FlSourceSpec *spec)
{
    g_free(spec->name);
    g_free(spec->text);
    g_strfreev(spec->argv);
    g_free(spec);
}

const FlSourceKind *fl_source_kind_of(const FlSourceSpec *spec)
{
    const FlSourceKind *const *kind = fl_source_kinds;

    while ((*kind)->is == NULL || !(*kind)->is(spec))
        kind++;
    return *kind;
}

const FlSourceKind *fl_source_kind_of_option(const FlSourceOption *option)
{
    for (const FlSourceKind *const *kind = fl_source_kinds; *kind != NULL; kind++) {
        const FlSourceOption *own = (*kind)->options;

        for (; own != NULL && own->name != NULL; own++) {
            if (own == option)
                return *kind;
        }
    }
    return NULL;
}

FlSource *fl_source_kind_lay_over(FlSource *source, const FlSourceParams *params, GError **error)
{
    for (const FlSourceKind *const *kind = fl_source_kinds; source != NULL && *kind != NULL;
         kind++) {
        if ((*kind)->lay_over != NULL)
            source = (*kind)->lay_over(source, params, error);
    }
    return source;
}

void fl_source_options_foreach(void (*each)(const FlSourceOption *option, void *opaque),
                               void *opaque)
{
    for (const FlSourceKind *const *kind = fl_source_kinds; *kind != NULL; kind++) {
        const FlSourceOption *option = (*kind)->options;

        for (; option != NULL && option->name != NULL; option++)
            each(option, opaque);
    }
}

bool fl_source_option_give(GPtrArray *values, const FlSourceOption *option, const char *value,
                           GError **error)
{
    FlSourceValue *given;

    if (value == NULL)
        return fl_fail_usage(error, "option %s needs a value: %s=%s", option->name, option->name,
                             option->value);
    if (option->check != NULL && !option->check(value, error)) {
        g_prefix_error(error, "option %s: ", option->name);
        return false;
    }
    given = g_new(FlSourceValue, 1);
    given->option = option;
    given->value = g_strdup(value);
    g_ptr_array_add(values, given);
    return true;
}

const char *fl_source_value(const GPtrArray *values, const char *name)
{
    for (guint i = values->len; i-- > 0;) {
        const FlSourceValue *value = values->pdata[i];

        if (g_str_equal(value->option->name, name))
            return value->value;
    }
    return NULL;
}

void fl_source_value_free(FlSourceValue *value)
{
    g_free(value->value);
    g_free(value);
}
