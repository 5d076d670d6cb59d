/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "folder.h"

#include "map/piece-name.h"
#include "qemu/json.h"
#include "source/source.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

/* Enough for a disk of 4 TiB in the smallest pieces. */
#define PIECES_MAX (UINT64_C(1) << 22)
/* The info.json that fleecefs writes is far smaller. */
#define INFO_MAX (1 << 20)

/* The state of a piece when the folder was opened. */
typedef struct {
    struct timespec mtime;
    bool dense; /* has blocks allocated for all its bytes */
} Piece;

struct FlPieceFolder {
    gatomicrefcount refs;
    char *path;
    int fd;
    Piece *pieces;
    uint64_t count, piece_size, size;
    struct timespec mtime, ctime;
    FlBudget *budget;
    uint64_t taken;
    char *changed; /* atomic: the change detected since; NULL if none */
};

FlPieceFolder *fl_piece_folder_ref(FlPieceFolder *folder)
{
    g_atomic_ref_count_inc(&folder->refs);
    return folder;
}

void fl_piece_folder_unref(FlPieceFolder *folder)
{
    if (folder == NULL || !g_atomic_ref_count_dec(&folder->refs))
        return;
    if (folder->fd >= 0)
        close(folder->fd);
    fl_budget_give_back(folder->budget, folder->taken);
    fl_budget_unref(folder->budget);
    g_free(folder->pieces);
    g_free(folder->path);
    g_free(folder->changed);
    g_free(folder);
}

uint64_t fl_piece_folder_size(const FlPieceFolder *folder)
{
    return folder->size;
}

struct timespec fl_piece_folder_mtime(const FlPieceFolder *folder)
{
    return folder->mtime;
}

struct timespec fl_piece_folder_ctime(const FlPieceFolder *folder)
{
    return folder->ctime;
}

static uint64_t length_of(const FlPieceFolder *folder, uint64_t index)
{
    return MIN(folder->piece_size, folder->size - index * folder->piece_size);
}

/* Opening */

static int compare_numbers(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* Reports the foreign file FOREIGN or, if NULL, an empty folder. */
static bool fail_foreign(const FlPieceFolder *folder, const char *foreign, GError **error)
{
    struct stat st;

    if (fstatat(folder->fd, "000000", &st, AT_SYMLINK_NOFOLLOW) == 0)
        return fl_fail(error,
                       "%s: %s is not a piece (000000, 000001, ...): the folder contains other "
                       "files, or a copy is incomplete; move the file away, or copy again",
                       folder->path, foreign);
    if (fstatat(folder->fd, "split/000000", &st, AT_SYMLINK_NOFOLLOW) == 0)
        return fl_fail(error, "%s: no piece of a disk (000000, 000001, ...); they are in %s/split",
                       folder->path, folder->path);
    return fl_fail(error,
                   "%s: no piece of a disk (000000, 000001, ...) is in this folder; name an image, "
                   "a folder split/ of a backup, or backup:FOLDER",
                   folder->path);
}

static bool read_names(const FlPieceFolder *folder, DIR *directory, GArray *numbers, GError **error)
{
    const struct dirent *entry;

    while (errno = 0, (entry = readdir(directory)) != NULL) {
        uint64_t index;

        if (g_str_equal(entry->d_name, ".") || g_str_equal(entry->d_name, ".."))
            continue;
        if (!fl_piece_name_parse(entry->d_name, PIECES_MAX, &index)) {
            g_autofree char *name = g_strescape(entry->d_name, NULL);
            return fail_foreign(folder, name, error);
        }
        g_array_append_val(numbers, index);
    }
    if (errno != 0)
        return fl_fail(error, "%s: %s", folder->path, g_strerror(errno));
    return numbers->len > 0 || fail_foreign(folder, NULL, error);
}

/* Returns the sorted numbers of all files in the folder; NULL with an error. */
static GArray *list(const FlPieceFolder *folder, GError **error)
{
    g_autoptr(GArray) numbers = g_array_new(FALSE, FALSE, sizeof(uint64_t));
    int fd = openat(folder->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *directory = fd >= 0 ? fdopendir(fd) : NULL;
    bool ok;

    if (directory == NULL) {
        fl_fail(error, "%s: %s", folder->path, g_strerror(errno));
        if (fd >= 0)
            close(fd);
        return NULL;
    }
    ok = read_names(folder, directory, numbers, error);
    closedir(directory);
    g_array_sort(numbers, compare_numbers);
    return ok ? g_steal_pointer(&numbers) : NULL;
}

static bool check_complete(FlPieceFolder *folder, const GArray *numbers, GError **error)
{
    for (guint i = 0; i < numbers->len; i++) {
        char name[FL_PIECE_NAME_MAX];

        if (g_array_index(numbers, uint64_t, i) == i)
            continue;
        fl_piece_name(name, i);
        return fl_fail(error, "%s: piece %s is missing; copy it again", folder->path, name);
    }
    folder->count = numbers->len;
    folder->taken = folder->count * sizeof *folder->pieces;
    if (!fl_budget_take(folder->budget, folder->taken, FL_SOURCE_BUDGET)) {
        folder->taken = 0;
        return fl_fail(error, "%s: out of memory for so many pieces", folder->path);
    }
    folder->pieces = g_new0(Piece, folder->count);
    return true;
}

static bool is_later(struct timespec a, struct timespec b)
{
    return a.tv_sec > b.tv_sec || (a.tv_sec == b.tv_sec && a.tv_nsec > b.tv_nsec);
}

/* Returns the size of piece INDEX and remembers its state; 0 with an error. */
static uint64_t look_at(FlPieceFolder *folder, uint64_t index, GError **error)
{
    char name[FL_PIECE_NAME_MAX];
    struct stat st;

    fl_piece_name(name, index);
    if (fstatat(folder->fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        fl_fail(error, "%s/%s: %s", folder->path, name, g_strerror(errno));
        return 0;
    }
    if (!S_ISREG(st.st_mode) || st.st_size == 0) {
        fl_fail(error, "%s: piece %s is %s; copy it again", folder->path, name,
                S_ISREG(st.st_mode) ? "empty" : "not a file");
        return 0;
    }
    folder->pieces[index] = (Piece){
        .mtime = st.st_mtim,
        .dense = (uint64_t)st.st_blocks >= (uint64_t)st.st_size / 512 + (st.st_size % 512 != 0),
    };
    if (is_later(st.st_mtim, folder->mtime))
        folder->mtime = st.st_mtim;
    if (is_later(st.st_ctim, folder->ctime))
        folder->ctime = st.st_ctim;
    return (uint64_t)st.st_size;
}

static bool fail_size(const FlPieceFolder *folder, uint64_t index, uint64_t size, GError **error)
{
    char name[FL_PIECE_NAME_MAX];

    fl_piece_name(name, index);
    return fl_fail(error,
                   "%s: piece %s has %" PRIu64 " bytes, but the size of these pieces is %" PRIu64
                   ": it was truncated, or is of another disk; copy it again",
                   folder->path, name, size, folder->piece_size);
}

/* Whether SIZE is valid for pieces other than the last. */
static bool is_piece_size(uint64_t size)
{
    return size >= FL_PIECE_SIZE_MIN && (size & (size - 1)) == 0;
}

/* All but the last have the same size, taken from the first or, if that was truncated, from the
 * second. */
static bool check_sizes(FlPieceFolder *folder, GError **error)
{
    uint64_t first = look_at(folder, 0, error), last = first;

    if (first == 0)
        return false;
    folder->piece_size = first;
    for (uint64_t i = 1; i < folder->count; i++) {
        last = look_at(folder, i, error);
        if (last == 0)
            return false;
        if (i == 1 && !is_piece_size(first)) {
            folder->piece_size = last;
            return fail_size(folder, 0, first, error);
        }
        if (i + 1 < folder->count ? last != first : last > first)
            return fail_size(folder, i, last, error);
    }
    folder->size = (folder->count - 1) * folder->piece_size + last;
    if (folder->size <= INT64_MAX && folder->piece_size <= INT64_MAX / folder->count)
        return true;
    return fl_fail(error, "%s: these pieces make a disk of more than 2^63 bytes", folder->path);
}

/* Returns the disk's size as recorded outside the pieces' lengths: in the info.json of its backup,
 * or in an attribute of the first piece. 0 if not recorded. */
static uint64_t noted_size(const FlPieceFolder *folder, const char **where)
{
    g_autofree char *last = g_path_get_basename(folder->path);
    g_autofree char *parent = g_path_get_dirname(folder->path);
    g_autofree char *path = g_build_filename(parent, "info.json", NULL);
    g_autofree char *text = NULL;
    g_autoptr(JsonObject) info = NULL;
    char name[FL_PIECE_NAME_MAX], value[32] = "";
    guint64 size = 0;
    struct stat st;
    gsize length;

    *where = "its info.json";
    if (g_str_equal(last, "split") && stat(path, &st) == 0 && S_ISREG(st.st_mode) &&
        st.st_size <= INFO_MAX && g_file_get_contents(path, &text, &length, NULL) &&
        (info = fl_json_parse(text, length, NULL)) != NULL && fl_json_int(info, "size") > 0)
        return (uint64_t)fl_json_int(info, "size");
    *where = "an attribute of the first piece";
    g_free(g_steal_pointer(&path));
    fl_piece_name(name, 0);
    path = g_build_filename(folder->path, name, NULL);
    if (lgetxattr(path, "user.fleecefs.disk_size", value, sizeof value - 1) <= 0 ||
        !g_ascii_string_to_unsigned(value, 10, 1, INT64_MAX, &size, NULL))
        return 0;
    return size;
}

/* Only the recorded size reveals missing pieces at the end or a truncated last one. */
static bool check_end(const FlPieceFolder *folder, GError **error)
{
    const char *where;
    uint64_t noted = noted_size(folder, &where);
    char name[FL_PIECE_NAME_MAX];

    if (noted == 0 || noted == folder->size)
        return true;
    fl_piece_name(name, MIN(folder->size, noted) / folder->piece_size);
    return fl_fail(error,
                   "%s: piece %s is missing, too long or truncated: the pieces have %" PRIu64
                   " bytes, but %s lists %" PRIu64 " for the disk; copy it again",
                   folder->path, name, folder->size, where, noted);
}

FlPieceFolder *fl_piece_folder_new(const char *path, FlBudget *budget, GError **error)
{
    g_autoptr(FlPieceFolder) folder = g_new0(FlPieceFolder, 1);
    g_autoptr(GArray) numbers = NULL;

    g_atomic_ref_count_init(&folder->refs);
    folder->budget = fl_budget_ref(budget);
    folder->path = g_canonicalize_filename(path, NULL);
    folder->fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (folder->fd < 0) {
        fl_fail(error, "%s: %s", folder->path, g_strerror(errno));
        return NULL;
    }
    numbers = list(folder, error);
    if (numbers == NULL || !check_complete(folder, numbers, error) || !check_sizes(folder, error) ||
        !check_end(folder, error))
        return NULL;
    return g_steal_pointer(&folder);
}

/* Reading */

static void note_change(FlPieceFolder *folder, const char *name)
{
    char *text = g_strdup_printf("piece %s changed since the folder was mounted", name);

    if (!g_atomic_pointer_compare_and_exchange(&folder->changed, NULL, text))
        g_free(text);
}

bool fl_piece_folder_check(const FlPieceFolder *folder, GError **error)
{
    const char *changed = g_atomic_pointer_get((char **)&folder->changed);

    return changed == NULL || fl_fail_changed(error, "%s", changed);
}

/* Whether FD is piece INDEX, unchanged. If not, the disk must fail. */
static bool is_same(FlPieceFolder *folder, uint64_t index, int fd)
{
    const Piece *piece = &folder->pieces[index];
    char name[FL_PIECE_NAME_MAX];
    struct stat st;

    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
        (uint64_t)st.st_size == length_of(folder, index) &&
        st.st_mtim.tv_sec == piece->mtime.tv_sec && st.st_mtim.tv_nsec == piece->mtime.tv_nsec)
        return true;
    fl_piece_name(name, index);
    note_change(folder, name);
    return false;
}

/* Returns a descriptor of piece INDEX, or -errno. */
static int open_piece(FlPieceFolder *folder, uint64_t index)
{
    char name[FL_PIECE_NAME_MAX];
    int fd;

    fl_piece_name(name, index);
    fd = openat(folder->fd, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        if (errno == ENOENT)
            note_change(folder, name);
        return -errno;
    }
    if (is_same(folder, index, fd))
        return fd;
    close(fd);
    return -EIO;
}

/* Adds the extents of one piece; returns false with errno set. */
static bool map_piece(int fd, uint64_t length, FlMapBuilder *builder)
{
    uint64_t at = 0;
    errint_t r = 0;

    while (at < length && r == 0) {
        off_t data = lseek(fd, (off_t)at, SEEK_DATA), hole;
        uint64_t start, end;

        if (data < 0 && errno != ENXIO)
            return false;
        start = data < 0 ? length : MIN((uint64_t)data, length);
        r = fl_map_builder_add(builder, start - at, FL_ALLOC_HOLE | FL_ALLOC_ZERO);
        at = start;
        if (at == length || r < 0)
            break;
        hole = lseek(fd, (off_t)at, SEEK_HOLE);
        if (hole < 0)
            return false;
        /* If the file shrinks, there may be no hole after its end. */
        end = CLAMP((uint64_t)hole, at, length);
        if (end == at)
            end = length;
        r = fl_map_builder_add(builder, end - at, 0);
        at = end;
    }
    errno = -r;
    return r == 0;
}

static void fail_piece(const FlPieceFolder *folder, uint64_t index, int number, GError **error)
{
    char name[FL_PIECE_NAME_MAX];

    fl_piece_name(name, index);
    if (fl_piece_folder_check(folder, error))
        fl_fail(error, "%s/%s: %s", folder->path, name, g_strerror(number));
}

FlMap *fl_piece_folder_map(FlPieceFolder *folder, GCancellable *cancel, GError **error)
{
    g_autoptr(FlMapBuilder) builder = fl_map_builder_new();
    uint64_t taken = 0;
    bool ok = true;

    for (uint64_t i = 0; i < folder->count && ok; i++) {
        uint64_t length = length_of(folder, i), bytes = fl_map_builder_bytes(builder);
        int fd = -1;

        if (g_cancellable_set_error_if_cancelled(cancel, error)) {
            ok = false;
            break;
        }
        if (folder->pieces[i].dense) {
            ok = fl_map_builder_add(builder, length, 0) == 0;
            errno = ENOMEM;
        } else {
            fd = open_piece(folder, i);
            errno = MAX(-fd, 0);
            ok = fd >= 0 && map_piece(fd, length, builder) && is_same(folder, i, fd);
        }
        if (!ok)
            fail_piece(folder, i, errno, error);
        if (fd >= 0)
            close(fd);
        bytes = fl_map_builder_bytes(builder) - bytes;
        if (ok && !fl_budget_take(folder->budget, bytes, FL_SOURCE_BUDGET))
            ok = fl_fail(error, "%s: out of memory for its map", folder->path);
        else if (ok)
            taken += bytes;
    }
    if (ok)
        return fl_map_builder_finish(g_steal_pointer(&builder));
    fl_budget_give_back(folder->budget, taken);
    return NULL;
}

void fl_piece_reader_init(FlPieceReader *reader, FlPieceFolder *folder)
{
    *reader = (FlPieceReader){.folder = fl_piece_folder_ref(folder), .fd = -1};
}

void fl_piece_reader_clear(FlPieceReader *reader)
{
    if (reader->fd >= 0)
        close(reader->fd);
    fl_piece_folder_unref(reader->folder);
}

/* Reads LENGTH bytes of the open piece. */
static errint_t read_open(const FlPieceReader *reader, char *buf, size_t length, uint64_t offset)
{
    while (length > 0) {
        ssize_t n = pread(reader->fd, buf, length, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        buf += n;
        offset += (uint64_t)n;
        length -= (size_t)n;
    }
    return is_same(reader->folder, reader->index, reader->fd) && length == 0 ? 0 : -EIO;
}

errint_t fl_piece_reader_read(FlPieceReader *reader, void *buf, size_t length, uint64_t offset)
{
    const FlPieceFolder *folder = reader->folder;
    errint_t r = 0;

    for (size_t done = 0; r == 0 && done < length;) {
        uint64_t index = (offset + done) / folder->piece_size;
        uint64_t within = (offset + done) % folder->piece_size;
        size_t part = (size_t)MIN(length - done, length_of(folder, index) - within);

        if (reader->fd >= 0 && reader->index != index) {
            close(reader->fd);
            reader->fd = -1;
        }
        if (reader->fd < 0) {
            reader->index = index;
            reader->fd = open_piece(reader->folder, index);
            if (reader->fd < 0)
                r = reader->fd;
        }
        if (r == 0)
            r = read_open(reader, (char *)buf + done, part, within);
        done += part;
    }
    return r;
}
