/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/file-id.h"

#include <sys/stat.h>

char *fl_file_ids(const GPtrArray *paths)
{
    GString *text = g_string_new(NULL);

    for (guint i = 0; i < paths->len; i++) {
        const char *path = paths->pdata[i];
        struct stat st;

        /* Not the device: its number may change when the host restarts. */
        if (g_path_is_absolute(path) && stat(path, &st) == 0 && S_ISREG(st.st_mode))
            g_string_append_printf(
                text, "%" G_GUINT64_FORMAT " %" G_GINT64_FORMAT " %" G_GINT64_FORMAT ".%09ld\n",
                (guint64)st.st_ino, (gint64)st.st_size, (gint64)st.st_mtim.tv_sec,
                st.st_mtim.tv_nsec);
        else
            g_string_append_printf(text, "%s\n", path);
    }
    return g_string_free(text, paths->len == 0);
}
