/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The command line, parsed once. */
#pragma once

#include "disk/disk.h"
#include "mount/export.h"
#include "source/kind.h"

#include <sys/types.h>

typedef enum {
    FL_COMMAND_MOUNT,
    FL_COMMAND_HELP,
    FL_COMMAND_VERSION,
    FL_COMMAND_STATUS,
    FL_COMMAND_COMMIT,
    FL_COMMAND_ABORT,
    FL_COMMAND_RATE,
    FL_COMMAND_RECOVER,
    FL_COMMAND_FORGET,
    FL_COMMAND_LIST,
} FlCommand;

typedef enum {
    FL_SANDBOX_MODE_ON, /* as far as possible */
    FL_SANDBOX_MODE_REQUIRE,
    FL_SANDBOX_MODE_OFF,
} FlSandboxMode;

typedef struct {
    FlCommand command;
    GPtrArray *sources; /* of FlSourceSpec; one for FL_COMMAND_RECOVER and _FORGET */
    char *mountpoint;   /* absolute */
    bool foreground, debug, verbose, json, watch, force;
    char *pidfile; /* absolute; NULL: none */
    bool direct_io;
    uid_t uid;
    gid_t gid;
    FlSandboxMode sandbox;
    bool rate_given;
    uint64_t rate; /* bytes per second; 0: no limit */
    FlDiskOptions disk;
    FlViewOptions view;
    GPtrArray *values; /* of FlSourceValue: options of source kinds and providers */
    /* Given options that have an effect only when mounting, or also with --recover and --forget;
     * NULL: none. */
    const char *mount_option, *source_option;
    /* Snapshots. */
    const char *snapshot_option;    /* a given option that is for snapshots; else NULL */
    char *series, *agent, *scratch; /* paths are absolute */
    char **disks;                   /* NULL: all */
    bool full, read_only, agent_optional, scratch_encrypt;
    unsigned freeze_timeout; /* seconds */
    GPtrArray *fuse;         /* of char *: options for FUSE, NULL-terminated */
    char *help;              /* the text of --help */
} FlOptions;

/* Parses ARGV, which the caller keeps. */
FlOptions *fl_options_parse(char **argv, GError **error);
void fl_options_free(FlOptions *options); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlOptions, fl_options_free)
