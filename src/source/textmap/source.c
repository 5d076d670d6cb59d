/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "map/context.h"
#include "source/kind.h"
#include "source/textmap/textmap.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    char *context, *file;
    FlMap *map; /* NULL until the disk's size is known */
} Layer;

typedef struct {
    FlSource source;   /* first; on top of the disk's source */
    GPtrArray *layers; /* of Layer */
    char *export;      /* the disk that the maps describe; NULL if not known yet */
} MapSource;

static void layer_free(gpointer data)
{
    Layer *layer = data;

    g_free(layer->context);
    g_free(layer->file);
    fl_map_unref(layer->map);
    g_free(layer);
}

/* Reads all of FILE, which may be a pipe. */
static GByteArray *read_file(const char *file, GError **error)
{
    g_autoptr(GByteArray) text = g_byte_array_new();
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    guint8 part[64 << 10];
    ssize_t n = -1;

    while (fd >= 0 && text->len <= FL_TEXTMAP_MAX && (n = read(fd, part, sizeof part)) > 0)
        g_byte_array_append(text, part, (guint)n);
    if (n < 0)
        fl_fail(error, "%s: %s", file, g_strerror(errno));
    if (fd >= 0)
        close(fd);
    if (text->len > FL_TEXTMAP_MAX)
        fl_fail(error, "%s is larger than %u MiB", file, (unsigned)(FL_TEXTMAP_MAX >> 20));
    return n == 0 ? g_steal_pointer(&text) : NULL;
}

static bool add_layer(Layer *layer, FlExportInfo *info, GError **error)
{
    if (fl_export_info_has_context(info, layer->context))
        return fl_fail(error, "the disk already has a bitmap %s: give another name",
                       fl_context_bitmap(layer->context));
    if (layer->map == NULL) {
        g_autoptr(GByteArray) text = read_file(layer->file, error);

        layer->map = text != NULL ? fl_textmap_parse((const char *)text->data, text->len,
                                                     info->size, layer->file, error)
                                  : NULL;
        if (layer->map == NULL)
            return false;
    }
    g_ptr_array_add(info->contexts, g_strdup(layer->context));
    return true;
}

/* Checks that EXPORTS has exactly the disk that the maps describe. */
static bool check_disk(MapSource *source, const GPtrArray *exports, GError **error)
{
    const FlExportInfo *first = exports->pdata[0];

    if (exports->len == 1 && source->export == NULL)
        source->export = g_strdup(first->name);
    return (exports->len == 1 && g_str_equal(source->export, first->name)) ||
           fl_fail(error,
                   "a map applies to one disk, but %s has several: select one (the export in the "
                   "URI, or -o disk=)",
                   source->source.label);
}

static GPtrArray *map_exports(FlSource *source, const char *name, const FlWait *wait,
                              GError **error)
{
    MapSource *maps = (MapSource *)source;
    g_autoptr(GPtrArray) exports = fl_source_exports(source->below, name, wait, error);

    if (exports == NULL)
        return NULL;
    if (!check_disk(maps, exports, error)) {
        g_prefix_error(error, "option map: ");
        return NULL;
    }
    for (guint i = 0; i < maps->layers->len; i++) {
        if (!add_layer(maps->layers->pdata[i], exports->pdata[0], error)) {
            g_prefix_error(error, "option map: ");
            return NULL;
        }
    }
    return g_steal_pointer(&exports);
}

static bool is_layer(const MapSource *maps, const char *context)
{
    for (guint i = 0; i < maps->layers->len; i++) {
        if (g_str_equal(((const Layer *)maps->layers->pdata[i])->context, context))
            return true;
    }
    return false;
}

static FlDiskMaps *map_load(FlSource *source, const FlExportInfo *info, const FlWait *wait,
                            GError **error)
{
    const MapSource *maps = (const MapSource *)source;
    g_autoptr(GPtrArray) contexts = g_ptr_array_new();
    FlExportInfo below = *info;
    FlDiskMaps *loaded;

    for (guint i = 0; i < info->contexts->len; i++) {
        if (!is_layer(maps, info->contexts->pdata[i]))
            g_ptr_array_add(contexts, info->contexts->pdata[i]);
    }
    below.contexts = contexts;
    loaded = fl_source_load(source->below, &below, wait, error);
    for (guint i = 0; loaded != NULL && i < maps->layers->len; i++) {
        const Layer *layer = maps->layers->pdata[i];

        if (fl_export_info_has_context(info, layer->context))
            fl_disk_maps_add_local(loaded, layer->context, fl_map_ref(layer->map));
    }
    return loaded;
}

static void map_clear(FlSource *source)
{
    MapSource *maps = (MapSource *)source;

    g_ptr_array_unref(maps->layers);
    g_free(maps->export);
}

static const FlSourceOps map_ops = {.exports = map_exports, .load = map_load, .clear = map_clear};

/* The kind */

static bool check_value(const char *value, GError **error)
{
    const char *colon = strchr(value, ':');

    return (colon != NULL && colon > value && colon[1] != '\0') ||
           fl_fail_usage(error, "'%s' is not NAME:FILE", value);
}

static const FlSourceOption map_options[] = {
    {"map", "NAME:FILE", "show the changes in FILE as bitmap NAME", check_value},
    {NULL},
};

static FlSource *lay_over(FlSource *below, const FlSourceParams *params, GError **error)
{
    g_autoptr(GPtrArray) layers = g_ptr_array_new_with_free_func(layer_free);
    FlSource *source;

    for (guint i = 0; i < params->values->len; i++) {
        const FlSourceValue *value = params->values->pdata[i];
        g_auto(GStrv) parts = g_strsplit(value->value, ":", 2);
        Layer *layer;

        if (value->option != &map_options[0])
            continue;
        layer = g_new0(Layer, 1);
        layer->context = fl_context_of_bitmap(parts[0]);
        layer->file = g_strdup(parts[1]);
        g_ptr_array_add(layers, layer);
    }
    if (layers->len == 0)
        return below;
    if (params->sources > 1) {
        fl_fail_usage(error, "option map: a map applies to one disk: give one source");
        fl_source_unref(below);
        return NULL;
    }
    source = fl_source_alloc(sizeof(MapSource), &map_ops, below->label, below);
    ((MapSource *)source)->layers = g_steal_pointer(&layers);
    return source;
}

const FlSourceKind fl_source_kind_textmap = {.lay_over = lay_over, .options = map_options};
