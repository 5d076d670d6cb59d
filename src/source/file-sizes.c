/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source/file-sizes.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

typedef struct {
    char *path;
    int fd;
    bool seeks;         /* lseek() tells the size without waiting for a server */
    uint64_t size, now; /* bytes; the last is less once it has shrunk */
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

/* Whether FD is of a file system that keeps sizes in memory: there lseek() costs a third of
 * statx(), and each reply checks all files of a chain. Elsewhere it may ask a server. */
static bool is_local(int fd)
{
    struct statfs fs;

    if (fstatfs(fd, &fs) != 0 || lseek(fd, 0, SEEK_END) < 0)
        return false;
    switch (fs.f_type) {
    case EXT4_SUPER_MAGIC:
    case XFS_SUPER_MAGIC:
    case BTRFS_SUPER_MAGIC:
    case TMPFS_MAGIC:
        return true;
    default:
        return false;
    }
}

/* Takes ownership of FD; -1 with errno if the file could not be opened. */
static void add(FlFileSizes *sizes, gconstpointer key, const char *path, int fd)
{
    struct stat st;
    File *file;

    if (fd < 0 || fstat(fd, &st) != 0) {
        g_warning("%s cannot be watched, so if it is truncated while mounted, zeros may be read: "
                  "%s",
                  path, g_strerror(errno));
        if (fd >= 0)
            close(fd);
        return;
    }
    if (!S_ISREG(st.st_mode)) {
        close(fd);
        return;
    }
    file = g_new(File, 1);
    *file = (File){.path = g_strdup(path),
                   .fd = fd,
                   .seeks = is_local(fd),
                   .size = (uint64_t)st.st_size,
                   .now = (uint64_t)st.st_size};
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

static bool has_shrunk(File *file)
{
    struct statx now;
    off_t end;

    if (file->now < file->size)
        return true;
    if (file->seeks) {
        end = lseek(file->fd, 0, SEEK_END);
        if (end >= 0)
            file->now = (uint64_t)end;
    } else if (statx(file->fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_SIZE, &now) == 0) {
        file->now = now.stx_size;
    }
    return file->now < file->size;
}

void fl_file_sizes_remove(FlFileSizes *sizes, gconstpointer key)
{
    File *file;

    g_mutex_lock(&sizes->lock);
    file = g_hash_table_lookup(sizes->files, key);
    if (file != NULL && !has_shrunk(file))
        g_hash_table_remove(sizes->files, key);
    g_mutex_unlock(&sizes->lock);
}

/* A file that has shrunk; NULL if there is none. The caller holds the lock. */
static File *find(FlFileSizes *sizes, gconstpointer wanted)
{
    GHashTableIter iter;
    gpointer file;

    if (wanted != NULL) {
        file = g_hash_table_lookup(sizes->files, wanted);
        return file != NULL && has_shrunk(file) ? file : NULL;
    }
    g_hash_table_iter_init(&iter, sizes->files);
    while (g_hash_table_iter_next(&iter, NULL, &file)) {
        if (has_shrunk(file))
            return file;
    }
    return NULL;
}

char *fl_file_sizes_fault(FlFileSizes *sizes, gconstpointer key)
{
    char *fault = NULL;
    const File *file;

    g_mutex_lock(&sizes->lock);
    file = find(sizes, key);
    if (file != NULL)
        fault = g_strdup_printf("%s was truncated while it was mounted: it has %" PRIu64
                                " bytes, and had %" PRIu64,
                                file->path, file->now, file->size);
    g_mutex_unlock(&sizes->lock);
    return fault;
}
