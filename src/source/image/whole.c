/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source/image/whole.h"

#include "util/deadline.h"
#include "util/size.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define SECONDS 60
#define SECTOR  512u

typedef struct {
    int fd;
    const FlImageBytes *bytes; /* instead of FD; NULL: none */
    uint64_t end;
    gint64 deadline;
} File;

/* A table of 4-byte or 8-byte integers, read in chunks. */
typedef struct {
    File *file;
    uint64_t offset, count;
    unsigned width;
    bool little; /* little-endian */
    uint64_t first, held;
    uint8_t bytes[32768];
} Table;

static bool open_file(File *file, const char *path)
{
    off_t end;

    file->fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    end = file->fd >= 0 ? lseek(file->fd, 0, SEEK_END) : -1;
    file->end = (uint64_t)MAX(end, 0);
    file->deadline = fl_deadline_in(SECONDS);
    return end >= 0;
}

static void close_file(File *file)
{
    if (file->fd >= 0)
        close(file->fd);
}

static bool needs(const File *file, uint64_t offset, uint64_t length, GError **error)
{
    if (offset <= file->end && length <= file->end - offset)
        return true;
    return fl_fail(error,
                   "it is truncated: it ends after %" G_GUINT64_FORMAT
                   " bytes, and the data at %" G_GUINT64_FORMAT " is lost; copy it again",
                   file->end, MAX(offset, file->end));
}

static bool read_at(const File *file, void *buf, size_t length, uint64_t offset, GError **error)
{
    if (!needs(file, offset, length, error))
        return false;
    if (fl_deadline_left(file->deadline) == 0)
        return fl_fail(error, "its tables cannot be read within %u seconds", SECONDS);
    if (file->bytes != NULL)
        return file->bytes->read(file->bytes->opaque, buf, length, offset, error);
    for (size_t done = 0; done < length;) {
        ssize_t n = pread(file->fd, (char *)buf + done, length - done, (off_t)(offset + done));

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return fl_fail(error, "%s", n < 0 ? g_strerror(errno) : "it has become shorter");
        done += (size_t)n;
    }
    return true;
}

static uint64_t integer(const uint8_t *bytes, unsigned width, bool little)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < width; i++)
        value = value << 8 | bytes[little ? width - 1 - i : i];
    return value;
}

static bool get(Table *table, uint64_t index, uint64_t *value, GError **error)
{
    uint64_t piece = sizeof table->bytes / table->width;

    if (index < table->first || index - table->first >= table->held) {
        table->first = index / piece * piece;
        table->held = MIN(piece, table->count - table->first);
        if (!read_at(table->file, table->bytes, table->held * table->width,
                     table->offset + table->first * table->width, error))
            return false;
    }
    *value =
        integer(table->bytes + (index - table->first) * table->width, table->width, table->little);
    return true;
}

/* Points TABLE to OFFSET. */
static void turn_to(Table *table, uint64_t offset)
{
    table->offset = offset;
    table->held = 0;
}

/* qcow2 */

#define OFFSET       UINT64_C(0x00fffffffffffe00)
#define COMPRESSED   (UINT64_C(1) << 62)
#define COPIED       (UINT64_C(1) << 63)
#define ZERO         UINT64_C(1)
#define HEADER_2     72u
#define HEADER_3     104u
#define DIRTY        UINT64_C(3) /* or marked corrupt: refcounts may be wrong */
#define EXTENDED_L2  UINT64_C(16)
#define BITMAPS      UINT64_C(1) /* the bitmaps extension is up to date */
#define BITMAPS_TYPE 0x23852875u
#define IN_USE       1u

typedef struct {
    File file;
    File *data; /* holds the data clusters */
    uint8_t header[HEADER_3];
    bool version_3, extended;
    unsigned bits;
    uint64_t cluster, size;
} Qcow2;

static uint64_t field(const Qcow2 *image, unsigned offset, unsigned width)
{
    return integer(image->header + offset, width, false);
}

/* Counts the entries of a refcount block up to the last nonzero one. */
static bool count_used(const Qcow2 *image, Table *block, unsigned bits, uint64_t *used,
                       GError **error)
{
    *used = 0;
    for (uint64_t i = block->count; i-- > 0 && *used == 0;) {
        uint64_t word;
        unsigned byte, last;

        if (!get(block, i, &word, error))
            return false;
        if (word == 0)
            continue;
        byte = 7 - (unsigned)__builtin_ctzll(word) / 8;
        last = 31 - (unsigned)__builtin_clz((unsigned)(word >> (8 * (7 - byte)) & 0xff));
        /* Refcounts smaller than a byte start at its lowest bit. */
        *used = bits < 8 ? (i * 8 + byte) * (8 / bits) + last / bits + 1
                         : (i * 8 + byte) * 8 / bits + 1;
    }
    return true;
}

/* Whether the file holds all clusters with a nonzero refcount. A killed VM may leave some that it
 * never wrote, so false proves little; the same holds for an error. */
static bool holds_what_is_counted(Qcow2 *image)
{
    unsigned bits = 1u << (image->version_3 ? field(image, 96, 4) & 7 : 4);
    Table table = {.file = &image->file,
                   .offset = field(image, 48, 8),
                   .count = (field(image, 56, 4) << image->bits) / 8,
                   .width = 8};
    Table block = {.file = &image->file, .count = image->cluster / 8, .width = 8};
    uint64_t per_block = image->cluster * 8 / bits;

    for (uint64_t i = table.count; i-- > 0;) {
        uint64_t entry, used;

        if (!get(&table, i, &entry, NULL))
            return false;
        if ((entry & OFFSET) == 0)
            continue;
        turn_to(&block, entry & OFFSET);
        if (!count_used(image, &block, bits, &used, NULL))
            return false;
        if (used > 0)
            return i * per_block + used <= image->file.end >> image->bits;
    }
    return false;
}

/* Checks the data cluster at GUEST, given its L2 table ENTRY and, with extended L2 entries, the
 * BITMAP after it. */
static bool check_cluster(const Qcow2 *image, uint64_t guest, uint64_t entry, uint64_t bitmap,
                          GError **error)
{
    uint64_t offset = entry & OFFSET, length = image->cluster;
    unsigned shift = 62 - (image->bits - 8);

    /* Truncated compressed data fails to decompress. */
    if ((entry & COMPRESSED) != 0)
        return needs(&image->file, entry & ((UINT64_C(1) << shift) - 1), 1, error);
    if (offset == 0 && (image->data == &image->file || (entry & COPIED) == 0))
        return true;
    if (image->extended) {
        uint32_t allocated = (uint32_t)bitmap;

        if (allocated == 0)
            return true;
        length = (32 - (unsigned)__builtin_clz(allocated)) * (image->cluster / 32);
    } else if ((entry & ZERO) != 0 && image->version_3) {
        return true;
    }
    return needs(image->data, offset, MIN(length, image->size - guest), error);
}

static bool check_l2(const Qcow2 *image, Table *table, uint64_t guest, GError **error)
{
    unsigned step = image->extended ? 2 : 1;

    if (!needs(&image->file, table->offset, image->cluster, error))
        return false;
    for (uint64_t i = 0; i < table->count && guest < image->size; i += step) {
        uint64_t entry, bitmap = 0;

        if (!get(table, i, &entry, error) ||
            (image->extended && !get(table, i + 1, &bitmap, error)) ||
            !check_cluster(image, guest, entry, bitmap, error))
            return false;
        guest += image->cluster;
    }
    return true;
}

static bool check_l1(Qcow2 *image, GError **error)
{
    Table l1 = {.file = &image->file,
                .offset = field(image, 40, 8),
                .count = field(image, 36, 4),
                .width = 8};
    Table l2 = {.file = &image->file, .count = image->cluster / 8, .width = 8};
    uint64_t span = l2.count / (image->extended ? 2 : 1) * image->cluster;

    for (uint64_t i = 0; i < l1.count && i < fl_div_up(image->size, span); i++) {
        uint64_t entry;

        if (!get(&l1, i, &entry, error))
            return false;
        turn_to(&l2, entry & OFFSET);
        if (l2.offset != 0 && !check_l2(image, &l2, i * span, error))
            return false;
    }
    return true;
}

/* Checks the bitmap directory entry at OFFSET and advances OFFSET to the next. */
static bool check_bitmap(Qcow2 *image, uint64_t *offset, GError **error)
{
    uint8_t entry[24];
    Table table = {.file = &image->file, .width = 8};

    if (!read_at(&image->file, entry, sizeof entry, *offset, error))
        return false;
    table.offset = integer(entry, 8, false);
    table.count = integer(entry + 8, 4, false);
    *offset += (sizeof entry + integer(entry + 18, 2, false) + integer(entry + 20, 4, false) + 7) &
               ~UINT64_C(7);
    /* QEMU does not load a bitmap marked in use. */
    if ((integer(entry + 12, 4, false) & IN_USE) != 0)
        return true;
    for (uint64_t i = 0; i < table.count; i++) {
        uint64_t cluster;

        if (!get(&table, i, &cluster, error))
            return false;
        if ((cluster & OFFSET) != 0 &&
            !needs(&image->file, cluster & OFFSET, image->cluster, error))
            return false;
    }
    return true;
}

static bool check_bitmaps(Qcow2 *image, GError **error)
{
    uint64_t at = image->version_3 ? field(image, 100, 4) : 0;
    uint8_t extension[32];

    if (!image->version_3 || (field(image, 88, 8) & BITMAPS) == 0)
        return true;
    /* The last extension has type 0; all lie within the first cluster. */
    while (at < image->cluster && read_at(&image->file, extension, 8, at, NULL) &&
           integer(extension, 4, false) != 0) {
        uint64_t offset;

        if (integer(extension, 4, false) != BITMAPS_TYPE) {
            at += 8 + ((integer(extension + 4, 4, false) + 7) & ~UINT64_C(7));
            continue;
        }
        if (!read_at(&image->file, extension, sizeof extension, at, error))
            return false;
        offset = integer(extension + 24, 8, false);
        for (uint64_t n = integer(extension + 8, 4, false); n > 0; n--) {
            if (!check_bitmap(image, &offset, error))
                return false;
        }
        return true;
    }
    return true;
}

static bool check_qcow2(const File *file, File *data, GError **error)
{
    g_autofree Qcow2 *image = g_new0(Qcow2, 1);

    image->file = *file;
    image->data = data != NULL ? data : &image->file;
    if (file->end < HEADER_2 ||
        !read_at(file, image->header, MIN(sizeof image->header, file->end), 0, error))
        return file->end < HEADER_2;
    image->version_3 = field(image, 4, 4) >= 3;
    image->extended = image->version_3 && (field(image, 72, 8) & EXTENDED_L2) != 0;
    image->bits = (unsigned)field(image, 20, 4);
    image->size = field(image, 24, 8);
    if (image->bits < 9 || image->bits > 21)
        return true;
    image->cluster = UINT64_C(1) << image->bits;
    return (data == NULL && (!image->version_3 || (field(image, 72, 8) & DIRTY) == 0) &&
            holds_what_is_counted(image)) ||
           (check_l1(image, error) && check_bitmaps(image, error));
}

/* VDI */

static bool check_vdi(const File *file, File *data, GError **error)
{
    uint8_t header[512];
    File image = *file;
    Table map = {.file = &image, .width = 4, .little = true};
    uint64_t blocks, size, block;

    if (!read_at(file, header, sizeof header, 0, error))
        return false;
    map.offset = integer(header + 0x154, 4, true);
    map.count = integer(header + 0x180, 4, true);
    blocks = integer(header + 0x158, 4, true);
    size = integer(header + 0x170, 8, true);
    block = integer(header + 0x178, 4, true);
    for (uint64_t i = 0; i < map.count && block != 0 && i < fl_div_up(size, block); i++) {
        uint64_t entry;

        if (!get(&map, i, &entry, error))
            return false;
        /* The two largest values: unallocated, and discarded. */
        if (entry < 0xfffffffe &&
            !needs(&image, blocks + entry * block, MIN(block, size - i * block), error))
            return false;
    }
    return true;
}

/* VMDK: sparse extents only; QEMU finds no file that a descriptor names in a jail. */

#define VMDK_COMPRESSED 0x10000u
#define VMDK_MAX        (UINT64_C(1) << 40) /* sectors */

static bool check_grains(Table *table, uint64_t sector, uint64_t grain, uint64_t capacity,
                         bool compressed, GError **error)
{
    for (uint64_t i = 0; i < table->count && sector < capacity; i++, sector += grain) {
        uint64_t entry, length = MIN(grain, capacity - sector) * SECTOR;

        if (!get(table, i, &entry, error))
            return false;
        /* 1 marks a grain of zeros. */
        if (entry > 1 && !needs(table->file, entry * SECTOR, compressed ? 1 : length, error))
            return false;
    }
    return true;
}

static bool check_vmdk(const File *file, File *data, GError **error)
{
    uint8_t header[512];
    File image = *file;
    Table directory = {.file = &image, .width = 4, .little = true}, table = directory;
    uint64_t capacity, grain, span;

    if (file->end < sizeof header || !read_at(file, header, sizeof header, 0, error))
        return file->end < sizeof header;
    if (memcmp(header, "KDMV", 4) != 0)
        return true;
    /* In a stream-optimized image the directory is written last, followed by a footer with its
     * offset. */
    if (integer(header + 56, 8, true) == UINT64_MAX &&
        (file->end < 1536 || !read_at(file, header, sizeof header, file->end - 1024, error) ||
         memcmp(header, "KDMV", 4) != 0))
        return fl_fail(error, "it is truncated: it has no footer; copy it again");
    capacity = integer(header + 12, 8, true);
    grain = integer(header + 20, 8, true);
    table.count = integer(header + 44, 4, true);
    if (capacity > VMDK_MAX || grain == 0 || grain > VMDK_MAX || table.count == 0 ||
        table.count > VMDK_MAX / grain)
        return true;
    span = grain * table.count;
    directory.count = fl_div_up(capacity, span);
    directory.offset = integer(header + 56, 8, true) * SECTOR;
    for (uint64_t i = 0; i < directory.count; i++) {
        uint64_t entry;

        if (!get(&directory, i, &entry, error))
            return false;
        turn_to(&table, entry * SECTOR);
        if (entry != 0 &&
            !check_grains(&table, i * span, grain, capacity,
                          (integer(header + 8, 4, true) & VMDK_COMPRESSED) != 0, error))
            return false;
    }
    return true;
}

/* Returns the check of images of FORMAT; NULL if there is none. */
static bool (*find_check(const char *format))(const File *file, File *data, GError **error)
{
    static const struct {
        const char *format;
        bool (*check)(const File *file, File *data, GError **error);
    } checks[] = {{"qcow2", check_qcow2}, {"vdi", check_vdi}, {"vmdk", check_vmdk}};

    for (size_t i = 0; i < G_N_ELEMENTS(checks); i++) {
        if (g_strcmp0(format, checks[i].format) == 0)
            return checks[i].check;
    }
    return NULL;
}

bool fl_image_check_whole(const char *path, const char *format, const char *data_file,
                          GError **error)
{
    bool (*check)(const File *file, File *data, GError **error) = find_check(format);
    File file = {.fd = -1}, data = {.fd = -1};
    bool has_data, ok;

    if (check == NULL)
        return true;
    has_data = data_file != NULL && open_file(&data, data_file);
    ok = !open_file(&file, path) || check(&file, has_data ? &data : NULL, error);
    close_file(&file);
    close_file(&data);
    return ok;
}

static File file_of(const FlImageBytes *bytes)
{
    return (File){.fd = -1,
                  .bytes = bytes,
                  .end = bytes != NULL ? bytes->size : 0,
                  .deadline = fl_deadline_in(SECONDS)};
}

bool fl_image_check_bytes(const FlImageBytes *image, const char *format, const FlImageBytes *data,
                          GError **error)
{
    bool (*check)(const File *file, File *data, GError **error) = find_check(format);
    File file = file_of(image), other = file_of(data);

    return check == NULL || check(&file, data != NULL ? &other : NULL, error);
}
