/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "disk/table.h"

void fl_content_clear(FlContent *content)
{
    g_clear_pointer(&content->type, g_free);
    g_clear_pointer(&content->label, g_free);
    g_clear_pointer(&content->uuid, g_free);
}

void fl_volume_free(FlVolume *volume)
{
    if (volume == NULL)
        return;
    g_free(volume->group);
    g_free(volume->name);
    g_free(volume->uuid);
    g_array_unref(volume->parts);
    fl_content_clear(&volume->content);
    g_free(volume);
}
