/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The journal of a backup: the input is its file. */
#include "snapshot/journal.h"
#include "fuzz.h"

#include <glib/gstdio.h>
#include <string.h>

static void write_file(const char *folder, const char *name, const uint8_t *data, size_t size)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);
    /* Not g_file_set_contents(): it syncs. */
    FILE *file = fopen(path, "we");

    g_assert_nonnull(file);
    fwrite(data, 1, size, file);
    fclose(file);
}

static void remove_file(const char *folder, const char *name)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);

    g_unlink(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = {"vm.journal", "vm.lock"};
    g_autofree char *folder = g_dir_make_tmp("fleecefs-fuzz.XXXXXX", NULL);
    g_autoptr(FlJournal) journal = NULL;
    g_autoptr(GError) error = NULL;

    g_assert_nonnull(folder);
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++)
        write_file(folder, names[i], data, size);
    journal = fl_journal_open(folder, "vm", NULL, &error);
    g_assert_true((journal != NULL) == (error == NULL));
    if (journal != NULL) {
        const FlJournalEntry *entry = fl_journal_entry(journal);
        if (entry != NULL && entry->source != NULL)
            g_assert_cmpuint(strlen(entry->source), <=, size);
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(names); i++)
        remove_file(folder, names[i]);
    g_rmdir(folder);
    return 0;
}
