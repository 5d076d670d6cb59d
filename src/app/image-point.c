/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "app/image-point.h"

#include "snapshot/point.h"

#include <string.h>

static const FlBitmap *find(const FlExportInfo *image, const char *name)
{
    for (guint i = 0; i < image->bitmaps->len; i++) {
        const FlBitmap *bitmap = image->bitmaps->pdata[i];
        if (g_str_equal(bitmap->name, name))
            return bitmap;
    }
    return NULL;
}

/* Whether BITMAP, whose name is POINT, is the restore point of a committed backup of SERIES. */
static bool is_base(const FlExportInfo *image, const FlBitmap *bitmap, const FlPoint *point,
                    const char *series)
{
    g_autofree char *marker = fl_point_marker(point->series, point->id);

    return point->kind == FL_POINT_BASE && g_str_equal(point->series, series) &&
           fl_bitmap_is_whole(bitmap) && find(image, marker) == NULL;
}

/* Returns the disk identity that the points of SERIES in IMAGE record; NULL if they record none
 * (points created by libvirt) or several. */
static FlPoint *find_identity(const FlExportInfo *image, const char *series)
{
    g_autoptr(FlPoint) found = NULL;

    for (guint i = 0; i < image->bitmaps->len; i++) {
        const FlBitmap *bitmap = image->bitmaps->pdata[i];
        g_autoptr(FlPoint) point = fl_point_parse(bitmap->name);
        g_autofree char *marker = NULL;

        if (point == NULL || point->kind != FL_POINT_DISK || point->first == NULL ||
            !g_str_equal(point->series, series))
            continue;
        /* A full backup that was not committed. */
        marker = fl_point_marker(series, point->first);
        if (find(image, marker) != NULL)
            continue;
        if (found != NULL)
            return NULL;
        found = g_steal_pointer(&point);
    }
    return g_steal_pointer(&found);
}

/* Whether the disk of IDENTITY was truncated: otherwise the last bit of its bitmap is set. */
static bool was_cut(const FlExportInfo *image, const FlPoint *identity)
{
    g_autofree char *name = fl_point_disk(identity->series, identity->id);
    const FlBitmap *bitmap = find(image, name);

    return bitmap == NULL || bitmap->count == 0;
}

/* Whether BITMAP, which is POINT, was cleared: its check bitmap has more bits set. */
static bool was_cleared(const FlExportInfo *image, const FlBitmap *bitmap, const FlPoint *point)
{
    g_autofree char *name = fl_point_check(point->series, point->id);
    const FlBitmap *check = find(image, name);

    return check != NULL && fl_bitmap_is_whole(check) && check->count > bitmap->count;
}

/* Returns why POINT, with BITMAP, may not tell all that changed; NULL if it does. IDENTITY may be
 * NULL. */
static char *find_fault(const FlExportInfo *image, const FlBitmap *bitmap, const FlPoint *point,
                        const FlPoint *identity)
{
    g_autofree char *backing = fl_point_backing_binding(image->backing);
    bool identified = point->unique && identity != NULL;
    uint64_t size = identified ? identity->size : point->size;

    /* What shows that a disk is that of a libvirt point is in libvirt's checkpoint. */
    if (size == 0)
        return g_strdup_printf("restore point %s cannot be verified: libvirt made it (mount "
                               "libvirt:DOMAIN instead of the image), or the bitmap that "
                               "identifies its disk was removed",
                               point->id);
    if (size != image->size)
        return g_strdup_printf("the disk's size changed since restore point %s, to "
                               "%" G_GUINT64_FORMAT " bytes",
                               point->id, image->size);
    if (identified && was_cut(image, identity))
        return g_strdup_printf("the disk was shrunk since restore point %s, and grown again",
                               point->id);
    if (was_cleared(image, bitmap, point))
        return g_strdup_printf("restore point %s was cleared", point->id);
    if (identified && g_strcmp0(identity->binding, backing) != 0)
        return g_strdup_printf(FL_POINT_BACKING_CHANGED, point->id);
    return NULL;
}

void fl_image_point_choose(FlOrigin *origin, const FlExportInfo *image, const char *series)
{
    const char *wanted = series != NULL ? series : FL_SERIES_DEFAULT;
    g_autoptr(FlPoint) identity = find_identity(image, wanted);
    g_autofree char *unusable = NULL;

    for (guint i = 0; i < image->bitmaps->len; i++) {
        const FlBitmap *bitmap = image->bitmaps->pdata[i];
        g_autoptr(FlPoint) point = fl_point_parse(bitmap->name);
        char *fault;

        if (point == NULL || !is_base(image, bitmap, point, wanted) ||
            (origin->chain.base != NULL && strcmp(point->id, origin->chain.base) <= 0))
            continue;
        fault = find_fault(image, bitmap, point, identity);
        if (fault != NULL) {
            g_free(unusable);
            unusable = fault;
            continue;
        }
        g_free(origin->chain.base);
        origin->chain.base = g_strdup(point->id);
        g_free(origin->chain.increment);
        origin->chain.increment = g_strdup(bitmap->context);
    }
    if (origin->chain.base == NULL && (unusable != NULL || series != NULL)) {
        origin->chain.mode = g_strdup("full");
        origin->chain.reason =
            unusable != NULL
                ? g_steal_pointer(&unusable)
                : g_strdup_printf("there is no restore point of series '%s' in the image", series);
    }
    if (origin->chain.base == NULL)
        return;
    origin->chain.mode = g_strdup("incremental");
    if (identity != NULL)
        origin->chain.disk_id = g_strdup(identity->id);
}
