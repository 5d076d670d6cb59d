/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* All options in one table: general ones, and those of kinds of sources and of providers. */
#pragma once

#include "app/options.h"

/* Groups in --help, in this order. */
typedef enum {
    FL_GROUP_GENERAL,
    FL_GROUP_MOUNTS,
    FL_GROUP_CLEANUP,
    FL_GROUP_READING,
    FL_GROUP_FILES,
    FL_GROUP_SOURCES,
    FL_GROUP_SNAPSHOTS,
} FlOptionGroup;

/* The commands with which an option has an effect. */
typedef enum {
    FL_USE_MOUNT,
    FL_USE_SOURCE, /* mounting, --recover and --forget */
    FL_USE_ANY,    /* all, or checked elsewhere */
} FlOptionUse;

typedef struct {
    const char *name, *value, *help; /* for --help; VALUE NULL: takes no value */
    FlOptionGroup group;
    char letter;       /* 0: none */
    bool json;         /* takes "=json" or no value */
    bool word;         /* not accepted by -o */
    FlOptionUse use;   /* others are refused; ignored for commands */
    bool of_vms;       /* meaningless for sources other than VMs */
    FlCommand command; /* that it selects; FL_COMMAND_MOUNT: none */
    size_t flag;       /* offset of a bool in FlOptions that it sets; 0: none */
    bool (*set)(FlOptions *options, const char *value, GError **error); /* may be NULL */
    const FlSourceOption *own; /* of a kind of sources or a provider; else NULL */
} FlSetting;

/* Returns all settings (FlSetting). */
GArray *fl_settings_new(void);
/* Finds the setting called NAME; NULL if there is none. */
const FlSetting *fl_setting_find(const GArray *settings, const char *name);
/* Applies SETTING with VALUE (NULL: none given) to OPTIONS. Errors name the option. */
bool fl_setting_apply(const FlSetting *setting, FlOptions *options, const char *value,
                      GError **error);
/* Returns the text of --help; free it with g_free(). */
char *fl_settings_help(const GArray *settings);
