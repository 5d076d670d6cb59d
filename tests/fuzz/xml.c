/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* libvirt's XML of domains, checkpoints and backups. */
#include "snapshot/libvirt/xml.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree char *text = g_strndup((const char *)data, size);
    GError *errors[4] = {NULL};
    g_autoptr(FlDomain) domain = fl_domain_parse(text, &errors[0]);
    g_autoptr(FlCheckpoint) checkpoint = fl_checkpoint_parse(text, &errors[1]);
    g_autoptr(FlDomainBackup) backup = fl_domain_backup_parse(text, &errors[2]);
    g_autofree char *confirm = fl_checkpoint_confirm_xml(text, NULL, 0, &errors[3]);

    g_assert_true((domain != NULL) == (errors[0] == NULL));
    g_assert_true((checkpoint != NULL) == (errors[1] == NULL));
    g_assert_true((backup != NULL) == (errors[2] == NULL));
    g_assert_true((confirm != NULL) == (errors[3] == NULL));
    for (unsigned i = 0; i < G_N_ELEMENTS(errors); i++)
        g_clear_error(&errors[i]);
    return 0;
}
