/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "stored/files.h"
#include "util/endian.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC       0x514649fbu
#define HEADER_MIN  72u
#define HEADER_3    104u
#define L1_MAX      (4u << 20) /* entries, QEMU's limit */
#define DATA_FILE   UINT64_C(4)
#define EXTENDED_L2 UINT64_C(16)
#define OFFSET      UINT64_C(0x00fffffffffffe00)
#define COMPRESSED  (UINT64_C(1) << 62)

typedef struct {
    int fd;
    uint64_t end; /* of the file */
    uint64_t cluster;
    unsigned bits;  /* cluster_bits */
    unsigned entry; /* size of an L2 entry, bytes */
    uint64_t *l2;   /* room for one table */
    uint64_t l1_entries, l1_offset;
} Image;

int fl_stored_open(const char *path, GError **error)
{
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    struct stat st;

    if (fd < 0) {
        fl_fail(error, "%s: %s", path,
                errno == ELOOP ? "it is a symbolic link" : g_strerror(errno));
    } else if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        fl_fail(error, "%s: not a regular file", path);
        close(fd);
        fd = -1;
    }
    return fd;
}

static bool read_at(const Image *image, void *buf, size_t length, uint64_t offset, GError **error)
{
    for (size_t done = 0; done < length;) {
        ssize_t n =
            offset + done <= image->end - MIN(image->end, 1)
                ? pread(image->fd, (char *)buf + done, length - done, (off_t)(offset + done))
                : 0;

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return fl_fail(error, n < 0 ? "it cannot be read" : "it is truncated");
        done += (size_t)n;
    }
    return true;
}

static bool read_header(Image *image, uint64_t size, bool based, GError **error)
{
    uint8_t header[HEADER_3] = {0};
    uint64_t virtual_size, features = 0;
    uint32_t version;

    if (!read_at(image, header, HEADER_MIN, 0, error))
        return false;
    version = fl_be32(header + 4);
    if (fl_be32(header) != MAGIC || version < 2 || version > 3)
        return fl_fail(error, "it is not a qcow2 file");
    if (version == 3) {
        if (!read_at(image, header, HEADER_3, 0, error))
            return false;
        features = fl_be64(header + 72);
    }
    virtual_size = fl_be64(header + 24);
    image->bits = fl_be32(header + 20);
    image->l1_entries = fl_be32(header + 36);
    image->l1_offset = fl_be64(header + 40);
    if (image->bits < 9 || image->bits > 21 || image->l1_entries > L1_MAX)
        return fl_fail(error, "its header is invalid");
    if (fl_be32(header + 32) != 0)
        return fl_fail(error, "it is encrypted, unlike backups");
    if ((features & DATA_FILE) != 0)
        return fl_fail(error, "it has an external data file, unlike backups");
    if (fl_be64(header + 8) != 0 && !based)
        return fl_fail(error, "it has a backing file, unlike full backups");
    if (virtual_size < size || virtual_size - size >= 512)
        return fl_fail(error,
                       "it is of a disk of %" G_GUINT64_FORMAT " bytes, not %" G_GUINT64_FORMAT,
                       virtual_size, size);
    image->cluster = UINT64_C(1) << image->bits;
    image->entry = (features & EXTENDED_L2) != 0 ? 16 : 8;
    return true;
}

/* Whether the cluster of L2 entry ENTRY lies within the file. */
static bool is_inside(const Image *image, uint64_t entry)
{
    uint64_t offset = entry & OFFSET;

    if ((entry & COMPRESSED) != 0) {
        /* The last sector of compressed data may be partial. */
        unsigned shift = 62 - (image->bits - 8);
        return (entry & ((UINT64_C(1) << shift) - 1)) < image->end;
    }
    return offset == 0 || (offset % image->cluster == 0 && offset <= image->end &&
                           image->end - offset >= image->cluster);
}

static bool check_l2(const Image *image, uint64_t offset, GError **error)
{
    unsigned step = image->entry / 8;

    if (offset % image->cluster != 0)
        return fl_fail(error, "its tables are invalid");
    if (!read_at(image, image->l2, image->cluster, offset, error))
        return false;
    for (uint64_t i = 0; i < image->cluster / 8; i += step) {
        if (!is_inside(image, GUINT64_FROM_BE(image->l2[i])))
            return fl_fail(error, "it is truncated");
    }
    return true;
}

/* Checks each table once, however often it is referenced: a small file with millions of references
 * to the same tables would otherwise take years. */
static bool check_tables(const Image *image, GError **error)
{
    g_autofree uint64_t *l1 = g_try_new(uint64_t, MAX(image->l1_entries, 1));
    uint64_t tables = 0;

    if (l1 == NULL || !read_at(image, l1, image->l1_entries * 8, image->l1_offset, error))
        return l1 != NULL || fl_fail(error, "out of memory for its tables");
    for (uint64_t i = 0; i < image->l1_entries; i++) {
        uint64_t offset = GUINT64_FROM_BE(l1[i]) & OFFSET;

        if (offset == 0)
            continue;
        if (++tables > image->end / image->cluster)
            return fl_fail(error, "its tables are invalid");
        if (!check_l2(image, offset, error))
            return false;
    }
    return true;
}

bool fl_stored_check_qcow2(int fd, uint64_t size, bool based, GError **error)
{
    Image image = {.fd = fd};
    struct stat st;
    bool ok;

    if (fstat(fd, &st) != 0)
        return fl_fail(error, "%s", g_strerror(errno));
    image.end = (uint64_t)st.st_size;
    if (!read_header(&image, size, based, error))
        return false;
    image.l2 = g_malloc(image.cluster);
    ok = check_tables(&image, error);
    g_free(image.l2);
    return ok;
}
