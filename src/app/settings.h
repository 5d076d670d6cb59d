/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The options of fleecefs in one table: those of its own, of kinds of sources, and of providers. */
#pragma once

#include "app/options.h"

/* As --help groups them, in this order. */
typedef enum {
    FL_GROUP_GENERAL,
    FL_GROUP_MOUNTS,
    FL_GROUP_READING,
    FL_GROUP_FILES,
    FL_GROUP_SOURCES,
    FL_GROUP_SNAPSHOTS,
} FlOptionGroup;

typedef struct {
    const char *name, *value, *help; /* --help shows them; a VALUE that is NULL: it takes none */
    FlOptionGroup group;
    char letter;       /* 0: it has none */
    bool json;         /* it takes "=json", or nothing */
    bool word;         /* it is not for -o */
    bool of_vms;       /* it says nothing to sources that are no VMs */
    FlCommand command; /* what it asks for; FL_COMMAND_MOUNT: nothing */
    size_t flag;       /* offset of a bool in FlOptions that it sets; 0: none */
    bool (*set)(FlOptions *options, const char *value, GError **error); /* may be NULL */
    const FlSourceOption *own; /* of a kind of sources or a provider; else NULL */
} FlSetting;

/* All there are. */
GArray *fl_settings_new(void);
/* The one of SETTINGS called NAME; NULL if there is none. */
const FlSetting *fl_setting_find(const GArray *settings, const char *name);
/* Does what SETTING says, with VALUE (NULL: none was given). Errors name the option. */
bool fl_setting_apply(const FlSetting *setting, FlOptions *options, const char *value,
                      GError **error);
/* The text of --help; to be freed with g_free(). */
char *fl_settings_help(const GArray *settings);
