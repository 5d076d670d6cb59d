/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* LVM2's metadata: a label or a header, with corrected checksums, or the text. The first byte
 * selects which. */
#include "lvm.h"

#include "fuzz.h"
#include "lvm-text.h"

#include <string.h>

#define PV_BYTES (UINT64_C(64) << 20)

static void put_sum(uint8_t *to, const uint8_t *bytes, size_t length)
{
    uint32_t sum = GUINT32_TO_LE(fl_lvm_sum(bytes, length));

    memcpy(to, &sum, sizeof sum);
}

static void try_label(const uint8_t *data, size_t size)
{
    uint8_t sector[512] = {0}, header[FL_LVM_HEADER_BYTES] = {0};
    FlLvmPv pv;

    memcpy(sector, data, MIN(size, sizeof sector));
    put_sum(sector + 16, sector + 20, sizeof sector - 20);
    if (!fl_lvm_read_label(&pv, PV_BYTES, PV_BYTES, sector, sizeof sector, NULL))
        return;
    g_assert_cmpuint(pv.area_offset, <=, PV_BYTES - pv.area_length);
    if (size > sizeof sector)
        memcpy(header, data + sizeof sector, MIN(size - sizeof sector, sizeof header));
    put_sum(header, header + 4, sizeof header - 4);
    if (!fl_lvm_read_header(&pv, header, NULL))
        return;
    for (uint64_t done = 0, n; done < pv.text_length; done += n) {
        uint64_t at = fl_lvm_text_at(&pv, done, &n);

        g_assert_cmpuint(n, >, 0);
        g_assert_cmpuint(at, >=, PV_BYTES + pv.area_offset + FL_LVM_HEADER_BYTES);
        g_assert_cmpuint(at + n, <=, PV_BYTES + pv.area_offset + pv.area_length);
    }
}

static void free_volume(gpointer volume)
{
    fl_volume_free(volume);
}

static void try_text(const uint8_t *data, size_t size)
{
    g_autoptr(GPtrArray) volumes = g_ptr_array_new_with_free_func(free_volume);
    g_autoptr(GPtrArray) left_out = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GArray) pvs = g_array_new(FALSE, FALSE, sizeof(FlLvmPv));
    FlLvmPv pv = {.start = 4096, .length = PV_BYTES, .uuid = "9ZIZkW8Iz8wc9owYc3M0A19HlexbOtfB"};

    pv.text_length = MIN(size, FL_LVM_TEXT_MAX);
    pv.text_sum = fl_lvm_sum(data, pv.text_length);
    g_array_append_val(pvs, pv);
    fl_lvm_read_text(&pv, pvs, (const char *)data, volumes, left_out, NULL);
    for (guint i = 0; i < volumes->len; i++) {
        const FlVolume *volume = volumes->pdata[i];
        uint64_t length = 0;

        for (guint j = 0; j < volume->parts->len; j++) {
            const FlVolumePart *part = &g_array_index(volume->parts, FlVolumePart, j);

            length += part->length;
            g_assert_cmpuint(part->length % (part->n * part->stripe), ==, 0);
            for (unsigned k = 0; k < part->n; k++) {
                g_assert_cmpuint(part->areas[k], >=, pv.start);
                g_assert_cmpuint(part->areas[k] - pv.start, <=, PV_BYTES - part->length / part->n);
            }
        }
        g_assert_cmpuint(length, ==, volume->size);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 1 && data[0] == 'l')
        try_label(data + 1, size - 1);
    else if (size > 1 && data[0] == 't')
        try_text(data + 1, size - 1);
    return 0;
}
