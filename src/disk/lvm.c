/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "lvm.h"

#include "lvm-text.h"
#include "util/endian.h"
#include "util/printable.h"

#include <string.h>

#define SECTOR       UINT64_C(512)
#define LABELS       4u  /* sectors that may hold the label */
#define LABEL_HEAD   20u /* not covered by its checksum */
#define PV_HEADER    40u /* UUID and size, before the areas */
#define AREA         16u
#define AREAS_MAX    16u
#define FIRST_SUM    0xf597a6cfu
#define MAGIC        "\x20\x4c\x56\x4d\x32\x20\x78\x5b\x35\x41\x25\x72\x30\x4e\x2a\x3e"
#define IGNORED      1u
#define EXTENTS_MAX  G_MAXUINT32
#define SECTORS_MAX  (UINT64_C(1) << 54)
#define PARTS_MAX    4096u
#define STRIPES_MAX  128u
#define VOLUMES_MAX  256u
#define NAME_MAX_LVM 127u

/* The CRC-32 of IEEE 802.3, with LVM2's initial value, and without the final inversion. */
uint32_t fl_lvm_sum(const uint8_t *bytes, size_t length)
{
    uint32_t sum = FIRST_SUM;

    for (size_t i = 0; i < length; i++) {
        sum ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            sum = (sum >> 1) ^ (0xedb88320u & -(sum & 1));
    }
    return sum;
}

/* Parses the list of data areas and the list of metadata areas in SECTOR from OFFSET on; each list
 * ends with a zero entry. Takes the first metadata area. */
static bool find_area(FlLvmPv *pv, const uint8_t *sector, size_t offset)
{
    unsigned lists = 0;

    for (unsigned i = 0; i < AREAS_MAX && offset + AREA <= SECTOR; i++, offset += AREA) {
        uint64_t start = fl_le64(sector + offset), size = fl_le64(sector + offset + 8);

        if (start == 0) {
            if (++lists == 2)
                return false;
        } else if (lists == 1) {
            pv->area_offset = start;
            pv->area_length = size;
            return start < pv->length && size <= pv->length - start &&
                   size >= 2 * FL_LVM_HEADER_BYTES;
        }
    }
    return false;
}

bool fl_lvm_read_label(FlLvmPv *pv, uint64_t start, uint64_t size, const uint8_t *bytes,
                       size_t length, GError **error)
{
    *pv = (FlLvmPv){.start = start, .length = size};
    for (unsigned i = 0; i < LABELS && (i + 1) * SECTOR <= length; i++) {
        const uint8_t *sector = bytes + i * SECTOR;
        uint32_t offset = fl_le32(sector + 20);

        if (memcmp(sector, "LABELONE", 8) != 0 || fl_le64(sector + 8) != i ||
            memcmp(sector + 24, "LVM2 001", 8) != 0)
            continue;
        if (fl_lvm_sum(sector + LABEL_HEAD, SECTOR - LABEL_HEAD) != fl_le32(sector + 16))
            return fl_fail(error, "the checksum of its label does not match");
        if (offset > SECTOR - PV_HEADER - AREA)
            return fl_fail(error, "its label is invalid");
        memcpy(pv->uuid, sector + offset, sizeof pv->uuid - 1);
        return find_area(pv, sector, offset + PV_HEADER) || fl_fail(error, "it has no metadata");
    }
    return fl_fail(error, "it has no label");
}

bool fl_lvm_read_header(FlLvmPv *pv, const uint8_t *bytes, GError **error)
{
    const uint8_t *slot = bytes + 40;

    if (fl_lvm_sum(bytes + 4, FL_LVM_HEADER_BYTES - 4) != fl_le32(bytes) ||
        memcmp(bytes + 4, MAGIC, 16) != 0 || fl_le32(bytes + 20) != 1)
        return fl_fail(error, "the checksum of its metadata header does not match");
    if (fl_le64(bytes + 24) != pv->area_offset || fl_le64(bytes + 32) != pv->area_length)
        return fl_fail(error, "its metadata header is invalid");
    pv->text_offset = fl_le64(slot);
    pv->text_length = fl_le64(slot + 8);
    pv->text_sum = fl_le32(slot + 16);
    if (pv->text_offset == 0 || (fl_le32(slot + 20) & IGNORED) != 0)
        return fl_fail(error, "it has no metadata");
    if (pv->text_offset < FL_LVM_HEADER_BYTES || pv->text_offset >= pv->area_length ||
        pv->text_length == 0 || pv->text_length > pv->area_length - FL_LVM_HEADER_BYTES)
        return fl_fail(error, "its metadata header is invalid");
    return pv->text_length <= FL_LVM_TEXT_MAX || fl_fail(error, "its metadata is too large");
}

uint64_t fl_lvm_text_at(const FlLvmPv *pv, uint64_t index, uint64_t *length)
{
    uint64_t at = pv->text_offset + index;

    /* The text wraps around to just after the header. */
    if (at >= pv->area_length)
        at -= pv->area_length - FL_LVM_HEADER_BYTES;
    *length = MIN(pv->text_length - index, pv->area_length - at);
    return pv->start + pv->area_offset + at;
}

/* State of building volumes from the text. */
typedef struct {
    const GArray *pvs;
    const FlLvmNode *group;
    const char *name;
    uint64_t extent; /* bytes */
    GPtrArray *left_out;
} Group;

static bool is_name(const char *name)
{
    size_t length = strlen(name);

    return length > 0 && length <= NAME_MAX_LVM && name[0] != '-' && !g_str_equal(name, ".") &&
           !g_str_equal(name, "..") &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+_.-") ==
               length;
}

static void leave_out(const Group *group, const FlLvmNode *volume, const char *why)
{
    g_autofree char *safe = fl_printable(volume->name);

    g_ptr_array_add(group->left_out, g_strdup_printf("%s/%s: %s", group->name, safe, why));
}

/* Whether UUID, as formatted in the text, is that of PV. */
static bool is_pv(const char *uuid, const FlLvmPv *pv)
{
    size_t n = 0;

    for (; uuid != NULL && *uuid != '\0'; uuid++) {
        if (*uuid != '-' && (n >= sizeof pv->uuid - 1 || *uuid != pv->uuid[n++]))
            return false;
    }
    return n == sizeof pv->uuid - 1;
}

/* Finds the disk offset of COUNT extents, starting at FIRST, of the physical volume called NAME in
 * the text. Returns NULL, or why there is none. */
static const char *find_area_of(const Group *group, const char *name, uint64_t first,
                                uint64_t count, uint64_t *start)
{
    const FlLvmNode *said = fl_lvm_section(fl_lvm_section(group->group, "physical_volumes"), name);
    const char *uuid = fl_lvm_string(said, "id");
    uint64_t pe_start, pe_count, offset, length;

    if (!fl_lvm_number(said, "pe_start", SECTORS_MAX, &pe_start) ||
        !fl_lvm_number(said, "pe_count", EXTENTS_MAX, &pe_count) || first > pe_count ||
        count > pe_count - first)
        return "its metadata is invalid";
    for (guint i = 0; i < group->pvs->len; i++) {
        const FlLvmPv *pv = &g_array_index(group->pvs, FlLvmPv, i);

        if (!is_pv(uuid, pv))
            continue;
        if (__builtin_mul_overflow(first, group->extent, &offset) ||
            __builtin_mul_overflow(count, group->extent, &length) ||
            __builtin_add_overflow(offset, pe_start * SECTOR, &offset) || offset > pv->length ||
            length > pv->length - offset)
            return "it extends beyond the end of a physical volume";
        *start = pv->start + offset;
        return NULL;
    }
    return "a part of it is on another disk";
}

/* Returns NULL, or why the segment is not supported. */
static const char *take_stripes(const Group *group, const FlLvmNode *segment, FlVolumePart *part,
                                uint64_t count)
{
    const GPtrArray *children = segment->children;
    const FlLvmNode *stripes = NULL;
    uint64_t n, stripe = 0;

    for (guint i = 0; i < children->len; i++) {
        const FlLvmNode *node = children->pdata[i];
        if (g_str_equal(node->name, "stripes") && node->values != NULL)
            stripes = node;
    }
    if (stripes == NULL || !fl_lvm_number(segment, "stripe_count", STRIPES_MAX, &n) || n == 0 ||
        stripes->values->len != 2 * n || count % n != 0 ||
        (n > 1 && (!fl_lvm_number(segment, "stripe_size", SECTORS_MAX, &stripe) || stripe == 0 ||
                   group->extent % (stripe * SECTOR) != 0)))
        return "its metadata is invalid";
    part->n = (unsigned)n;
    part->length = count * group->extent;
    part->stripe = n == 1 ? part->length : stripe * SECTOR;
    part->areas = g_new(uint64_t, n);
    for (size_t i = 0; i < n; i++) {
        uint64_t first;
        const char *why;

        if (!g_ascii_string_to_unsigned(stripes->values->pdata[2 * i + 1], 10, 0, EXTENTS_MAX,
                                        &first, NULL))
            return "its metadata is invalid";
        why = find_area_of(group, stripes->values->pdata[2 * i], first, count / n, &part->areas[i]);
        if (why != NULL)
            return why;
    }
    return NULL;
}

/* Appends SEGMENT to VOLUME, which has EXTENTS extents so far. */
static const char *take_segment(const Group *group, const FlLvmNode *segment, FlVolume *volume,
                                uint64_t *extents)
{
    const char *type = fl_lvm_string(segment, "type");
    uint64_t start, count;
    FlVolumePart part = {0};
    const char *why;

    if (!fl_lvm_number(segment, "start_extent", EXTENTS_MAX, &start) ||
        !fl_lvm_number(segment, "extent_count", EXTENTS_MAX, &count) || start != *extents ||
        count == 0 || count > EXTENTS_MAX - start)
        return "its metadata is invalid";
    if (g_strcmp0(type, "striped") != 0)
        return "it is neither linear nor striped";
    if (count > (uint64_t)G_MAXINT64 / group->extent)
        return "it is too large";
    why = take_stripes(group, segment, &part, count);
    if (why != NULL) {
        g_free(part.areas);
        return why;
    }
    *extents += count;
    volume->size += part.length;
    g_array_append_val(volume->parts, part);
    return volume->size <= G_MAXINT64 ? NULL : "it is too large";
}

static void clear_part(gpointer part)
{
    g_free(((FlVolumePart *)part)->areas);
}

static FlVolume *new_volume(const Group *group, const FlLvmNode *said)
{
    FlVolume *volume = g_new0(FlVolume, 1);

    volume->group = g_strdup(group->name);
    volume->name = g_strdup(said->name);
    volume->uuid = fl_printable(fl_lvm_string(said, "id") != NULL ? fl_lvm_string(said, "id") : "");
    volume->parts = g_array_new(FALSE, FALSE, sizeof(FlVolumePart));
    g_array_set_clear_func(volume->parts, clear_part);
    return volume;
}

/* Returns NULL, and sets *WHY, if the volume cannot be assembled. */
static FlVolume *take_volume(const Group *group, const FlLvmNode *said, const char **why)
{
    FlVolume *volume = new_volume(group, said);
    uint64_t count, extents = 0;

    *why = NULL;
    if (!is_name(said->name) || !fl_lvm_number(said, "segment_count", PARTS_MAX, &count) ||
        count == 0)
        *why = "its metadata is invalid";
    for (uint64_t i = 1; *why == NULL && i <= count; i++) {
        g_autofree char *name = g_strdup_printf("segment%" G_GUINT64_FORMAT, i);
        const FlLvmNode *segment = fl_lvm_section(said, name);

        *why = segment != NULL ? take_segment(group, segment, volume, &extents)
                               : "its metadata is invalid";
    }
    if (*why == NULL)
        return volume;
    fl_volume_free(volume);
    return NULL;
}

/* Whether another volume is a snapshot that stores its blocks in NAME, which means nothing by
 * itself. */
static bool is_store(const FlLvmNode *volumes, const char *name)
{
    for (guint i = 0; i < volumes->children->len; i++) {
        const FlLvmNode *segment = fl_lvm_section(volumes->children->pdata[i], "segment1");
        if (g_strcmp0(fl_lvm_string(segment, "cow_store"), name) == 0 ||
            g_strcmp0(fl_lvm_string(segment, "merging_store"), name) == 0)
            return true;
    }
    return false;
}

static void take_volumes(const Group *group, GPtrArray *volumes)
{
    const FlLvmNode *all = fl_lvm_section(group->group, "logical_volumes");

    for (guint i = 0; all != NULL && i < all->children->len; i++) {
        const FlLvmNode *said = all->children->pdata[i];
        const char *why = NULL;
        FlVolume *volume;

        /* LVM does not show components of other volumes either. */
        if (said->children == NULL || !fl_lvm_list_has(said, "status", "VISIBLE"))
            continue;
        if (volumes->len >= VOLUMES_MAX) {
            leave_out(group, said, "there are too many");
            return;
        }
        if (is_store(all, said->name)) {
            leave_out(group, said, "it is a snapshot");
            continue;
        }
        volume = take_volume(group, said, &why);
        if (volume != NULL)
            g_ptr_array_add(volumes, volume);
        else
            leave_out(group, said, why);
    }
}

bool fl_lvm_read_text(const FlLvmPv *pv, const GArray *pvs, const char *text, GPtrArray *volumes,
                      GPtrArray *left_out, GError **error)
{
    Group group = {.pvs = pvs, .left_out = left_out};
    g_autoptr(FlLvmNode) top = NULL;
    uint64_t sectors;

    if (fl_lvm_sum((const uint8_t *)text, pv->text_length) != pv->text_sum)
        return fl_fail(error, "the checksum of its metadata does not match");
    top = fl_lvm_text_parse(text, pv->text_length, error);
    if (top == NULL)
        return false;
    for (guint i = 0; i < top->children->len && group.group == NULL; i++) {
        const FlLvmNode *node = top->children->pdata[i];
        if (node->children != NULL)
            group.group = node;
    }
    if (group.group == NULL || !is_name(group.group->name) ||
        !fl_lvm_number(group.group, "extent_size", G_MAXUINT32, &sectors) || sectors == 0)
        return fl_fail(error, "its metadata is invalid");
    group.name = group.group->name;
    group.extent = sectors * SECTOR;
    for (guint i = 0; i < volumes->len; i++) {
        const FlVolume *other = volumes->pdata[i];
        /* The group was read already: all its physical volumes have the same text. */
        if (g_str_equal(other->group, group.name))
            return true;
    }
    take_volumes(&group, volumes);
    return true;
}
