/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The kinds of sources: how one is written on the command line, and the options that it brings.
 *
 * src/source/meson.build lists the folders; each defines its kind as fl_source_kind_FOLDER, and
 * that is all of it: the options appear in --help and are parsed, the kinds are asked in the order
 * of that list who opens a source, and then who lays something over it.
 */
#pragma once

#include "source/source.h"

/* [NAME=]SOURCE or [NAME=][ SERVER ARGS... ] */
typedef struct {
    char *name;  /* NULL: none was given */
    char *text;  /* URI, path, qmp:..., libvirt:...; NULL for a server */
    char **argv; /* of a server; NULL otherwise */
} FlSourceSpec;

/* Of WORD on the command line; ARGV, of a server, is taken over, else NULL. */
FlSourceSpec *fl_source_spec_new(const char *word, char **argv);
void fl_source_spec_free(FlSourceSpec *spec);
/* WORD behind its NAME=, if it has one. */
const char *fl_source_spec_text(const char *word);

/* An option -o NAME=VALUE of a kind. */
typedef struct {
    const char *name, *value, *help; /* as --help shows them */
    /* Whether VALUE can be one; else an error of usage. NULL: any can. */
    bool (*check)(const char *value, GError **error);
} FlSourceOption;

/* What was given on the command line, in that order. */
typedef struct {
    const FlSourceOption *option;
    char *value;
} FlSourceValue;

/* What all sources of a mount are opened with. */
typedef struct {
    const GPtrArray *values; /* of FlSourceValue, for options of all kinds */
    FlBudget *budget;        /* for what they make us remember */
    guint sources;           /* how many there are */
} FlSourceParams;

typedef struct {
    /* Whether SPEC is of this kind; NULL: none is. */
    bool (*is)(const FlSourceSpec *spec);
    /* Opens it, by a thread that lives as long as the mount. */
    FlSource *(*open)(const FlSourceSpec *spec, const FlSourceParams *params, GError **error);
    /* What mount(8) shows of SPEC, without passwords; to be freed with g_free(). */
    char *(*label)(const FlSourceSpec *spec);
    /* It is one disk, whose folder has the name that the source was given. */
    bool one_disk;
    /* Lays what PARAMS ask for over SOURCE, which is taken over, and returned if that is nothing.
     * NULL: this kind never does. */
    FlSource *(*lay_over)(FlSource *source, const FlSourceParams *params, GError **error);
    const FlSourceOption *options; /* ended by one without a name; NULL: it has none */
} FlSourceKind;

/* All kinds, ended by NULL. */
extern const FlSourceKind *const fl_source_kinds[];

/* The kind of SPEC: there is one for whatever is written. */
const FlSourceKind *fl_source_kind_of(const FlSourceSpec *spec);
/* SOURCE, taken over (NULL: failed already), with all that PARAMS lay over it. */
FlSource *fl_source_kind_lay_over(FlSource *source, const FlSourceParams *params, GError **error);

/* Calls EACH(OPTION, OPAQUE) for the options of all kinds. */
void fl_source_options_foreach(void (*each)(const FlSourceOption *option, void *opaque),
                               void *opaque);
/* Adds VALUE (NULL: none was given) of OPTION to VALUES. */
bool fl_source_option_give(GPtrArray *values, const FlSourceOption *option, const char *value,
                           GError **error);
/* The last value of VALUES for the option NAME; NULL if it was not given. */
const char *fl_source_value(const GPtrArray *values, const char *name);
void fl_source_value_free(FlSourceValue *value);
