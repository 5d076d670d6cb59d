/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A provider: one way to take snapshots of VMs, such as QMP or libvirt. It is a table; a new one
 * takes a folder with its table, and a line in snapshot/providers.c.
 *
 * All functions but open take a session of this provider (snapshot/session.h) and are called by one
 * thread at a time; they may block. Errors are FL_ERROR and need not name the source.
 */
#pragma once

#include "snapshot/machine.h"
#include "snapshot/snapshot.h"
#include "source/kind.h"

typedef struct {
    const char *prefix;            /* prefix of source names: "qmp:" */
    const char *usage;             /* how to name a source: "qmp:PATH" */
    bool is_path;                  /* what follows the prefix is a path of this host */
    const FlSourceOption *options; /* its own, terminated by one without a name; NULL: none */

    /* Connects to the VM and locks it; changes nothing. */
    FlSnapshot *(*open)(const FlSnapshotOptions *options, GError **error);
    /* Whether ACTION may run now: checks that the disks are still this VM's, as a migration may
     * have begun. Allows actions on a VM that is gone or does not answer: the action itself reports
     * that. */
    bool (*allow_action)(FlSnapshot *snapshot, FlAction action, GError **error);
    /* The implementation of each action; NULL: nothing to do. */
    bool (*actions[FL_N_ACTIONS])(FlSnapshot *snapshot, GError **error);
    /* Handles events until a disk is newly lost or the descriptor WAKE is readable. */
    void (*wait)(FlSnapshot *snapshot, int wake);
    /* Queries the VM and marks each disk whose snapshot is not intact as lost. Returns false if the
     * VM does not answer. NULL: the VM cannot be queried. */
    bool (*look)(FlSnapshot *snapshot);
    /* Bytes that the scratch file of DISK uses, and can use. */
    void (*scratch_use)(const FlSnapshot *snapshot, const FlSnapshotDisk *disk, uint64_t *used,
                        uint64_t *limit);
    /* Removes all restore points of options->series; NULL: of all series. */
    bool (*forget)(FlSnapshot *snapshot, GError **error);
    /* Allows what is still needed to talk to the VM and to clean up. */
    void (*allow)(const FlSnapshot *snapshot, FlSandbox *sandbox);
    /* Closes connections and releases locks. Only close may follow. */
    void (*release)(FlSnapshot *snapshot);
    void (*close)(FlSnapshot *snapshot); /* frees SNAPSHOT */
} FlProvider;

extern const FlProvider fl_qmp_provider, fl_libvirt_provider;
/* All providers, NULL-terminated. */
extern const FlProvider *const fl_providers[];

/* The provider for SOURCE; NULL: SOURCE is not a VM. Pure. */
const FlProvider *fl_provider_find(const char *source);
/* The option NAME of PROVIDER; NULL if it has none. Pure. */
const FlSourceOption *fl_provider_option(const FlProvider *provider, const char *name);
/* The option NAME of any provider; NULL if none has it. Pure. */
const FlSourceOption *fl_providers_option(const char *name);
/* "qmp:PATH or libvirt:DOMAIN". Free with g_free(). */
char *fl_providers_usage(void);
