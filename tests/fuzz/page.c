/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The page of `fleecefs --status`: the input is a mount's status file. */
#include "app/status-page.h"
#include "fuzz.h"
#include "qemu/json.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const FlStatusPageOptions options = {.mountpoint = "/mnt", .columns = 80, .wrap = true};
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonObject) status = fl_json_parse((const char *)data, size, &error);
    g_autofree char *page = NULL;

    g_assert_true((status != NULL) == (error == NULL));
    if (status == NULL)
        return 0;
    page = fl_status_page_make(status, &options);
    g_assert_true(g_utf8_validate(page, -1, NULL));
    for (const char *p = page; *p != '\0'; p++)
        g_assert_true(*p == '\n' || !g_ascii_iscntrl(*p));
    return 0;
}
