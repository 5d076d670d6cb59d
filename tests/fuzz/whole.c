/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Image files: follows their tables to detect truncation. */
#include "fuzz.h"

#include "source/image/whole.h"

#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const formats[] = {"qcow2", "vdi", "vmdk"};
    int fd = memfd_create("image", MFD_CLOEXEC);
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fd);

    g_assert_cmpint(write(fd, data, size), ==, (ssize_t)size);
    for (size_t i = 0; i < G_N_ELEMENTS(formats); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_true(fl_image_check_whole(path, formats[i], i == 0 ? path : NULL, &error) ==
                      (error == NULL));
        g_clear_error(&error);
        g_assert_true(fl_image_check_whole(path, formats[i], NULL, &error) == (error == NULL));
    }
    close(fd);
    return 0;
}
