/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "contents.h"

#include "lvm.h"
#include "lvm-text.h"
#include "probe.h"

#include <string.h>

/* Superblocks lie in the first 68 KiB, except a few at the end, which are not searched for. */
#define HEAD_BYTES (68u << 10)
/* Maximum number of partitions to probe, of physical and of logical volumes. */
#define REGIONS_MAX 32u
#define PVS_MAX     8u
#define VOLUMES_MAX 32u

G_STATIC_ASSERT(HEAD_BYTES <= FL_TABLE_MAX);

typedef struct {
    uint64_t start, length;
    FlContent *into;
} Region;

/* Stages, in order: what to read. */
typedef enum {
    HEADS,   /* of the regions */
    HEADERS, /* of the metadata of physical volumes */
    TEXTS,   /* their metadata */
    VOLUMES, /* the heads of logical volumes */
    DONE,
} Stage;

struct FlContents {
    GArray *regions; /* of Region */
    GArray *pvs;     /* of FlLvmPv */
    GPtrArray *volumes, *left_out;
    Stage stage;
    guint index;         /* of the next item in the stage's list */
    char *text;          /* of pvs[index] */
    uint64_t text_taken; /* bytes */
};

static void free_volume(gpointer volume)
{
    fl_volume_free(volume);
}

FlContents *fl_contents_new(void)
{
    FlContents *contents = g_new0(FlContents, 1);

    contents->regions = g_array_new(FALSE, FALSE, sizeof(Region));
    contents->pvs = g_array_new(FALSE, FALSE, sizeof(FlLvmPv));
    contents->volumes = g_ptr_array_new_with_free_func(free_volume);
    contents->left_out = g_ptr_array_new_with_free_func(g_free);
    return contents;
}

void fl_contents_free(FlContents *contents)
{
    if (contents == NULL)
        return;
    g_array_unref(contents->regions);
    g_array_unref(contents->pvs);
    g_ptr_array_unref(contents->volumes);
    g_ptr_array_unref(contents->left_out);
    g_free(contents->text);
    g_free(contents);
}

const GPtrArray *fl_contents_volumes(const FlContents *contents)
{
    return contents->volumes;
}

const GPtrArray *fl_contents_left_out(const FlContents *contents)
{
    return contents->left_out;
}

void fl_contents_add(FlContents *contents, uint64_t start, uint64_t length, FlContent *into)
{
    Region region = {start, length, into};

    if (contents->regions->len < REGIONS_MAX)
        g_array_append_val(contents->regions, region);
}

static FlLvmPv *pv_of(const FlContents *contents)
{
    return &g_array_index(contents->pvs, FlLvmPv, contents->index);
}

/* The contiguous part of a volume's head. */
static size_t volume_head(const FlVolume *volume)
{
    return (size_t)MIN(g_array_index(volume->parts, FlVolumePart, 0).stripe, HEAD_BYTES);
}

static guint length_of(const FlContents *contents)
{
    switch (contents->stage) {
    case HEADS:
        return contents->regions->len;
    case HEADERS:
    case TEXTS:
        return contents->pvs->len;
    case VOLUMES:
        return MIN(contents->volumes->len, VOLUMES_MAX);
    case DONE:
        break;
    }
    return 0;
}

static Stage stage_of(const FlContents *contents)
{
    FlContents ahead = *contents;

    while (ahead.stage != DONE && ahead.index >= length_of(&ahead)) {
        ahead.stage++;
        ahead.index = 0;
    }
    return ahead.stage;
}

bool fl_contents_wants(const FlContents *contents, uint64_t *offset, size_t *length)
{
    Stage stage = stage_of(contents);
    guint index = stage == contents->stage ? contents->index : 0;
    const Region *region;
    const FlLvmPv *pv = NULL;
    uint64_t in_a_row;

    if (stage == HEADERS || stage == TEXTS)
        pv = &g_array_index(contents->pvs, FlLvmPv, index);
    switch (stage) {
    case HEADS:
        region = &g_array_index(contents->regions, Region, index);
        *offset = region->start;
        *length = (size_t)MIN(region->length, HEAD_BYTES);
        return true;
    case HEADERS:
        *offset = pv->start + pv->area_offset;
        *length = FL_LVM_HEADER_BYTES;
        return true;
    case TEXTS:
        *offset = fl_lvm_text_at(pv, contents->text_taken, &in_a_row);
        *length = (size_t)MIN(in_a_row, FL_TABLE_MAX);
        return true;
    case VOLUMES:
        *offset = g_array_index(((const FlVolume *)contents->volumes->pdata[index])->parts,
                                FlVolumePart, 0)
                      .areas[0];
        *length = volume_head(contents->volumes->pdata[index]);
        return true;
    case DONE:
        break;
    }
    return false;
}

/* Records why the logical volumes of a physical volume are missing. */
static void leave_out(FlContents *contents, uint64_t start, const GError *error)
{
    g_ptr_array_add(contents->left_out,
                    g_strdup_printf("the physical volume at byte %" G_GUINT64_FORMAT ": %s", start,
                                    error->message));
}

/* Probes REGION, whose head is LENGTH bytes at BYTES. */
static void look_into(FlContents *contents, const Region *region, const void *bytes, size_t length)
{
    g_autoptr(GError) error = NULL;
    FlLvmPv pv;

    fl_probe_content(bytes, length, region->length, region->into);
    if (g_strcmp0(region->into->type, "LVM2_member") != 0 || contents->pvs->len == PVS_MAX)
        return;
    if (fl_lvm_read_label(&pv, region->start, region->length, bytes, length, &error))
        g_array_append_val(contents->pvs, pv);
    else
        leave_out(contents, region->start, error);
}

void fl_contents_add_disk(FlContents *contents, const void *bytes, size_t length, uint64_t size,
                          FlContent *into)
{
    Region disk = {.length = size, .into = into};

    look_into(contents, &disk, bytes, length);
}

static void drop_pv(FlContents *contents, const GError *error)
{
    leave_out(contents, pv_of(contents)->start, error);
    g_array_remove_index(contents->pvs, contents->index);
}

static void feed_header(FlContents *contents, const void *bytes)
{
    g_autoptr(GError) error = NULL;

    if (fl_lvm_read_header(pv_of(contents), bytes, &error))
        contents->index++;
    else
        drop_pv(contents, error);
}

static void feed_text(FlContents *contents, const void *bytes, size_t length)
{
    const FlLvmPv *pv = pv_of(contents);
    g_autoptr(GError) error = NULL;

    if (contents->text == NULL)
        contents->text = g_malloc(pv->text_length);
    memcpy(contents->text + contents->text_taken, bytes, length);
    contents->text_taken += length;
    if (contents->text_taken < pv->text_length)
        return;
    if (!fl_lvm_read_text(pv, contents->pvs, contents->text, contents->volumes, contents->left_out,
                          &error))
        leave_out(contents, pv->start, error);
    g_clear_pointer(&contents->text, g_free);
    contents->text_taken = 0;
    contents->index++;
}

/* Whether anything is left to read; if so, stage and index refer to it. */
static bool settle_stage(FlContents *contents)
{
    Stage stage = stage_of(contents);

    if (stage != contents->stage)
        contents->index = 0;
    contents->stage = stage;
    return stage != DONE;
}

void fl_contents_feed(FlContents *contents, const void *bytes)
{
    FlVolume *volume;
    uint64_t offset;
    size_t length;

    if (!settle_stage(contents) || !fl_contents_wants(contents, &offset, &length))
        return;
    switch (contents->stage) {
    case HEADS:
        look_into(contents, &g_array_index(contents->regions, Region, contents->index++), bytes,
                  length);
        break;
    case HEADERS:
        feed_header(contents, bytes);
        break;
    case TEXTS:
        feed_text(contents, bytes, length);
        break;
    case VOLUMES:
        volume = contents->volumes->pdata[contents->index++];
        fl_probe_content(bytes, length, volume->size, &volume->content);
        break;
    case DONE:
        break;
    }
}

void fl_contents_skip(FlContents *contents)
{
    g_autoptr(GError) error = NULL;

    if (!settle_stage(contents))
        return;
    if (contents->stage == HEADERS || contents->stage == TEXTS) {
        fl_fail(&error, "its metadata cannot be read");
        leave_out(contents, pv_of(contents)->start, error);
    }
    g_clear_pointer(&contents->text, g_free);
    contents->text_taken = 0;
    if (contents->stage == HEADERS)
        g_array_remove_index(contents->pvs, contents->index);
    else
        contents->index++;
}

void fl_contents_stop(FlContents *contents)
{
    contents->stage = DONE;
}
