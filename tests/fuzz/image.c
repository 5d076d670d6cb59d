/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* JSON from qemu-img about an image, and from a storage daemon about its bitmaps. */
#include "fuzz.h"

/* Included, because static functions parse the output of programs. */
#include "../../src/source/image/image.c"   // NOLINT
#include "../../src/source/image/bitmaps.c" // NOLINT

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *text = g_strndup((const char *)data, size);
    g_autoptr(FlImage) image = g_new0(FlImage, 1);
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonObject) reply = fl_json_parse(text, strlen(text), NULL);

    image->path = g_strdup("/nowhere/image");
    image->info.bitmaps = g_ptr_array_new_with_free_func((GDestroyNotify)fl_bitmap_free);
    image->merged = g_ptr_array_new_with_free_func(g_free);
    image->files = g_ptr_array_new_with_free_func(g_free);
    if (reply != NULL) {
        g_assert_true(take_info(image, reply, &error) == (error == NULL));
        g_assert_true(find_chain(&(Probe){&local, NULL, image}, reply, NULL));
    }
    add_bitmaps(image->info.bitmaps, fl_json_array(reply, "dirty-bitmaps"));
    for (guint i = 0; i < image->info.bitmaps->len; i++)
        g_assert_nonnull(((const FlBitmap *)image->info.bitmaps->pdata[i])->name);
    return 0;
}
