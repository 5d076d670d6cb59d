/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source/file-sizes.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sys/stat.h>
#include <unistd.h>

#define WATCHED (STATX_TYPE | STATX_SIZE | STATX_MTIME)

typedef struct {
    char *path;
    int fd;
    struct statx first, now; /* when it was added, and last or, once it has changed, then */
} File;

struct FlFileSizes {
    GMutex lock;
    GHashTable *files; /* LOCK: key to File */
};

static void file_free(gpointer data)
{
    File *file = data;

    close(file->fd);
    g_free(file->path);
    g_free(file);
}

FlFileSizes *fl_file_sizes_new(void)
{
    FlFileSizes *sizes = g_new0(FlFileSizes, 1);

    g_mutex_init(&sizes->lock);
    sizes->files = g_hash_table_new_full(NULL, NULL, NULL, file_free);
    return sizes;
}

void fl_file_sizes_free(FlFileSizes *sizes)
{
    if (sizes == NULL)
        return;
    g_hash_table_unref(sizes->files);
    g_mutex_clear(&sizes->lock);
    g_free(sizes);
}

/* Takes ownership of FD; -1 with errno if the file could not be opened. */
static void add(FlFileSizes *sizes, gconstpointer key, const char *path, int fd)
{
    struct statx now;
    File *file;

    if (fd < 0 || statx(fd, "", AT_EMPTY_PATH, WATCHED, &now) != 0) {
        g_warning("%s cannot be watched, so if it is truncated while mounted, zeros may be read: "
                  "%s",
                  path, g_strerror(errno));
        if (fd >= 0)
            close(fd);
        return;
    }
    if (!S_ISREG(now.stx_mode)) {
        close(fd);
        return;
    }
    file = g_new(File, 1);
    *file = (File){.path = g_strdup(path), .fd = fd, .first = now, .now = now};
    g_mutex_lock(&sizes->lock);
    if (g_hash_table_contains(sizes->files, key))
        file_free(file);
    else
        g_hash_table_insert(sizes->files, (gpointer)key, file);
    g_mutex_unlock(&sizes->lock);
}

void fl_file_sizes_add(FlFileSizes *sizes, gconstpointer key, const char *path)
{
    add(sizes, key, path, open(path, O_PATH | O_CLOEXEC));
}

void fl_file_sizes_add_fd(FlFileSizes *sizes, gconstpointer key, const char *path, int fd)
{
    add(sizes, key, path, fcntl(fd, F_DUPFD_CLOEXEC, 0));
}

static bool differs(const struct statx *a, const struct statx *b)
{
    return a->stx_size != b->stx_size || a->stx_mtime.tv_sec != b->stx_mtime.tv_sec ||
           a->stx_mtime.tv_nsec != b->stx_mtime.tv_nsec;
}

/* The time of the last status change is not compared: links to a file, as rsync --link-dest makes
 * them, its name, owner and mode change it, too. */
static bool has_changed(File *file)
{
    struct statx now;

    if (!differs(&file->first, &file->now) &&
        statx(file->fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, WATCHED, &now) == 0)
        file->now = now;
    return differs(&file->first, &file->now);
}

void fl_file_sizes_remove(FlFileSizes *sizes, gconstpointer key)
{
    File *file;

    g_mutex_lock(&sizes->lock);
    file = g_hash_table_lookup(sizes->files, key);
    if (file != NULL && !has_changed(file))
        g_hash_table_remove(sizes->files, key);
    g_mutex_unlock(&sizes->lock);
}

/* A file that has changed; NULL if there is none. The caller holds the lock. */
static File *find(FlFileSizes *sizes, gconstpointer wanted)
{
    GHashTableIter iter;
    gpointer file;

    if (wanted != NULL) {
        file = g_hash_table_lookup(sizes->files, wanted);
        return file != NULL && has_changed(file) ? file : NULL;
    }
    g_hash_table_iter_init(&iter, sizes->files);
    while (g_hash_table_iter_next(&iter, NULL, &file)) {
        if (has_changed(file))
            return file;
    }
    return NULL;
}

static char *explain(const File *file)
{
    uint64_t now = file->now.stx_size, before = file->first.stx_size;

    if (now < before)
        return g_strdup_printf("%s was truncated while it was mounted: it has %" PRIu64
                               " bytes, and had %" PRIu64,
                               file->path, now, before);
    return g_strdup_printf("%s was changed while it was mounted; mount it again when nothing "
                           "writes to it any more",
                           file->path);
}

char *fl_file_sizes_fault(FlFileSizes *sizes, gconstpointer key)
{
    char *fault = NULL;
    const File *file;

    g_mutex_lock(&sizes->lock);
    file = find(sizes, key);
    if (file != NULL)
        fault = explain(file);
    g_mutex_unlock(&sizes->lock);
    return fault;
}

bool fl_file_sizes_is_at(FlFileSizes *sizes, gconstpointer key, const char *path)
{
    struct stat held, found;
    const File *file;
    bool same;

    g_mutex_lock(&sizes->lock);
    file = g_hash_table_lookup(sizes->files, key);
    same = file == NULL || (fstat(file->fd, &held) == 0 && stat(path, &found) == 0 &&
                            held.st_dev == found.st_dev && held.st_ino == found.st_ino);
    g_mutex_unlock(&sizes->lock);
    return same;
}
