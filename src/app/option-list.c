/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "app/option-list.h"

#include <glib.h>

/* Parses the octal byte ("0" to "377") at the beginning of TEXT; 0 if there is none. */
static char octal_byte(const char *text)
{
    unsigned value = 0;

    for (int i = 0; i < 3; i++) {
        if (text[i] < '0' || text[i] > '7')
            return '\0';
        value = value * 8 + (unsigned)(text[i] - '0');
    }
    return value <= 0xff ? (char)value : '\0';
}

static void end_part(GPtrArray *parts, GString *part)
{
    if (part->len > 0)
        g_ptr_array_add(parts, g_strdup(part->str));
    g_string_truncate(part, 0);
}

char **fl_option_list_split(const char *list)
{
    GPtrArray *parts = g_ptr_array_new();
    g_autoptr(GString) part = g_string_new(NULL);

    for (; *list != '\0'; list++) {
        if (*list == ',') {
            end_part(parts, part);
        } else if (*list == '\\' && octal_byte(list + 1) != '\0') {
            g_string_append_c(part, octal_byte(list + 1));
            list += 3;
        } else {
            if (*list == '\\' && list[1] != '\0')
                list++;
            g_string_append_c(part, *list);
        }
    }
    end_part(parts, part);
    g_ptr_array_add(parts, NULL);
    return (char **)g_ptr_array_free(parts, FALSE);
}

/* Options of FUSE and mount(8), except those that would make the tree writable. */
static const char *const fuse_options[] = {
    "allow_other", "allow_root", "auto_unmount", "fsname=",     "max_read=",
    "noatime",     "context=",   "fscontext=",   "defcontext=", "rootcontext="};
/* Options of mount(8) and fstab that are meaningless here or always in effect. */
static const char *const ignored_options[] = {
    "ro",       "rw",     "defaults", "auto",     "noauto",     "user",
    "nouser",   "users",  "dev",      "nodev",    "suid",       "nosuid",
    "exec",     "noexec", "nofail",   "_netdev",  "sync",       "async",
    "atime",    "owner",  "group",    "relatime", "norelatime", "default_permissions",
    "nonempty",
};

static bool listed(const char *const *list, size_t n, const char *option)
{
    for (size_t i = 0; i < n; i++) {
        if (g_str_has_suffix(list[i], "=") ? g_str_has_prefix(option, list[i])
                                           : g_str_equal(option, list[i]))
            return true;
    }
    return false;
}

bool fl_option_is_for_fuse(const char *option)
{
    return listed(fuse_options, G_N_ELEMENTS(fuse_options), option);
}

bool fl_option_is_for_mount(const char *option)
{
    return listed(ignored_options, G_N_ELEMENTS(ignored_options), option) ||
           g_str_has_prefix(option, "x-") || g_str_has_prefix(option, "comment=");
}
