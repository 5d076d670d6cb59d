/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The kinds of sources: their syntax on the command line, and their options.
 *
 * source_kinds in src/meson.build lists the folders; each defines its kind as
 * fl_source_kind_FOLDER. Nothing else is needed: the options are parsed and appear in --help, and
 * the kinds are tried in the order of that list, first to open a source, then to add layers over
 * it.
 */
#pragma once

#include "source/source.h"

/* [NAME=]SOURCE or [NAME=][ SERVER ARGS... ] */
typedef struct {
    char *name;  /* NULL: none was given */
    char *text;  /* URI, path, qmp:..., libvirt:...; NULL for a server */
    char **argv; /* of a server; else NULL */
} FlSourceSpec;

/* Parses WORD from the command line. Takes ownership of ARGV, a server's command line, else NULL.
 */
FlSourceSpec *fl_source_spec_new(const char *word, char **argv);
void fl_source_spec_free(FlSourceSpec *spec);
/* WORD without its NAME= prefix, if any. */
const char *fl_source_spec_text(const char *word);

/* An option -o NAME=VALUE of a kind. */
typedef struct {
    const char *name, *value, *help; /* as --help shows them */
    /* Validates VALUE; reports a usage error. NULL: any value is valid. */
    bool (*check)(const char *value, GError **error);
} FlSourceOption;

/* An option as given on the command line. */
typedef struct {
    const FlSourceOption *option;
    char *value;
} FlSourceValue;

/* Parameters common to all sources of a mount. */
typedef struct {
    const GPtrArray *values; /* of FlSourceValue, for options of all kinds */
    FlBudget *budget;        /* for memory that sources make us hold */
    guint sources;           /* number of sources */
} FlSourceParams;

typedef struct {
    /* Whether SPEC is of this kind; NULL: never. */
    bool (*is)(const FlSourceSpec *spec);
    /* Opens it. The calling thread must live as long as the mount. */
    FlSource *(*open)(const FlSourceSpec *spec, const FlSourceParams *params, GError **error);
    /* What mount(8) shows for SPEC, without passwords. Free with g_free(). */
    char *(*label)(const FlSourceSpec *spec);
    /* It is a single disk, whose folder is named after the source. */
    bool one_disk;
    /* Takes ownership of SOURCE and wraps it in the layer that PARAMS ask for; returns SOURCE
     * itself if there is none. NULL: this kind is never a layer. */
    FlSource *(*lay_over)(FlSource *source, const FlSourceParams *params, GError **error);
    const FlSourceOption *options; /* terminated by one without a name; NULL: none */
    /* What OPTIONS apply to, in the plural: "image files". NULL if there are none, or for a layer,
     * whose options apply to all sources. */
    const char *noun;
} FlSourceKind;

/* All kinds, NULL-terminated. */
extern const FlSourceKind *const fl_source_kinds[];

/* The kind of SPEC; never NULL. */
const FlSourceKind *fl_source_kind_of(const FlSourceSpec *spec);
/* The kind that has OPTION; NULL if it is of no kind. */
const FlSourceKind *fl_source_kind_of_option(const FlSourceOption *option);
/* Takes ownership of SOURCE (NULL: failed already) and adds all layers that PARAMS ask for. */
FlSource *fl_source_kind_lay_over(FlSource *source, const FlSourceParams *params, GError **error);

/* Calls EACH(OPTION, OPAQUE) for the options of all kinds. */
void fl_source_options_foreach(void (*each)(const FlSourceOption *option, void *opaque),
                               void *opaque);
/* Adds VALUE of OPTION (NULL: given without a value) to VALUES. */
bool fl_source_option_give(GPtrArray *values, const FlSourceOption *option, const char *value,
                           GError **error);
/* The last value in VALUES for the option NAME; NULL if not given. */
const char *fl_source_value(const GPtrArray *values, const char *name);
void fl_source_value_free(FlSourceValue *value);
