/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "settings.h"

static const char head[] =
    "usage: fleecefs [OPTION...] [NAME=]SOURCE... MOUNTPOINT\n"
    "\n"
    "Mounts the disks of virtual machines as read-only files. SOURCE is an NBD URI,\n"
    "an image file, a folder of pieces, backup:FOLDER, qmp:PATH, libvirt:DOMAIN,\n"
    "or an NBD server to start, in brackets:\n"
    "  fleecefs [ SERVER ARGS... ] MOUNTPOINT\n";

static const char *const titles[] = {
    [FL_GROUP_GENERAL] = "Options",
    [FL_GROUP_MOUNTS] = "Commands for mounts",
    [FL_GROUP_CLEANUP] = "Commands for sources",
    [FL_GROUP_READING] = "Reading",
    [FL_GROUP_FILES] = "Files in the tree",
    [FL_GROUP_SOURCES] = "Sources",
    [FL_GROUP_SNAPSHOTS] = "Snapshots of VMs",
};

static void add_setting(GString *text, const FlSetting *setting)
{
    gsize start = text->len;

    if (setting->letter != '\0')
        g_string_append_printf(text, "  -%c, ", setting->letter);
    else
        g_string_append(text, "      ");
    g_string_append_printf(text, "--%s%s%s", setting->name, setting->value != NULL ? "=" : "",
                           setting->value != NULL ? setting->value : "");
    g_string_append_printf(text, "%*s%s\n", MAX(32 - (int)(text->len - start), 1), "",
                           setting->help);
}

char *fl_settings_help(const GArray *settings)
{
    GString *text = g_string_new(head);

    for (guint group = 0; group < G_N_ELEMENTS(titles); group++) {
        g_string_append_printf(text, "%s%s:\n", group == 0 ? "\n" : "", titles[group]);
        for (guint i = 0; i < settings->len; i++) {
            const FlSetting *setting = &g_array_index(settings, FlSetting, i);

            if (setting->group == group)
                add_setting(text, setting);
        }
    }
    return g_string_free(text, FALSE);
}
