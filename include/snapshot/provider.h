/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A provider: one way to take snapshots of VMs, as by QMP or by libvirt. It is a table; another way
 * costs a folder with one more table, and a line in snapshot/providers.c.
 *
 * All functions but open get a session of this provider (snapshot/session.h) and are
 * called by one thread at a time; they may block. Errors are FL_ERROR and need not name the source.
 */
#pragma once

#include "snapshot/machine.h"
#include "snapshot/snapshot.h"
#include "source/kind.h"

typedef struct {
    const char *prefix;            /* of sources: "qmp:" */
    const char *usage;             /* how to name a source: "qmp:PATH" */
    const FlSourceOption *options; /* its own, ended by one without a name; NULL: none */

    /* Connects to the VM and locks it; changes nothing. */
    FlSnapshot *(*open)(const FlSnapshotOptions *options, GError **error);
    /* Whether ACTION may be carried out now, on disks that are still this VM's: a migration may
     * have begun. What is asked of a VM that is gone or silent is allowed: the action tells of
     * that. */
    bool (*allow_action)(FlSnapshot *snapshot, FlAction action, GError **error);
    /* What carries out each action; NULL: there is nothing to do. */
    bool (*actions[FL_N_ACTIONS])(FlSnapshot *snapshot, GError **error);
    /* Handles events until a disk is newly lost or the descriptor WAKE can be read. */
    void (*wait)(FlSnapshot *snapshot, int wake);
    /* Asks the VM now, and loses each disk whose snapshot is not whole. False if it does not
     * answer. NULL: there is no way to ask. */
    bool (*look)(FlSnapshot *snapshot);
    /* Bytes that the scratch file of DISK takes, and might take. */
    void (*scratch_use)(const FlSnapshot *snapshot, const FlSnapshotDisk *disk, uint64_t *used,
                        uint64_t *limit);
    /* Removes all restore points of options->series, NULL: of all. */
    bool (*forget)(FlSnapshot *snapshot, GError **error);
    /* Allows what talking to the VM still takes, and putting it in order. */
    void (*allow)(const FlSnapshot *snapshot, FlSandbox *sandbox);
    /* Leaves the VM to others: connections and locks end. Only close follows. */
    void (*release)(FlSnapshot *snapshot);
    void (*close)(FlSnapshot *snapshot); /* frees SNAPSHOT */
} FlProvider;

extern const FlProvider fl_qmp_provider, fl_libvirt_provider;
/* All there are, ended by NULL. */
extern const FlProvider *const fl_providers[];

/* The one that takes snapshots of SOURCE; NULL: SOURCE is no VM. Pure. */
const FlProvider *fl_provider_find(const char *source);
/* The option of PROVIDER that is called NAME; NULL if it has none. Pure. */
const FlSourceOption *fl_provider_option(const FlProvider *provider, const char *name);
/* The option of any provider that is called NAME; NULL if none has it. Pure. */
const FlSourceOption *fl_providers_option(const char *name);
/* "qmp:PATH or libvirt:DOMAIN", to be freed with g_free(). */
char *fl_providers_usage(void);
