/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source/image/layers.h"

#include "source/image/image.h"
#include "source/process.h"
#include "qemu/json.h"

#include <string.h>

/* Time limit of each qemu-img call. */
#define SECONDS 60
/* Maximum length of a chain of images. */
#define CHAIN_MAX 200

static void free_layer(gpointer data)
{
    FlImageLayer *layer = data;

    g_free(layer->path);
    g_ptr_array_unref(layer->bitmaps);
    g_free(layer);
}

static FlImageLayer *parse_layer(JsonObject *image, const char *path)
{
    JsonObject *specific = fl_json_object(fl_json_object(image, "format-specific"), "data");
    JsonArray *bitmaps = fl_json_array(specific, "bitmaps");
    FlImageLayer *layer = g_new0(FlImageLayer, 1);

    layer->path = g_strdup(path);
    layer->bitmaps = g_ptr_array_new_with_free_func(g_free);
    for (guint i = 0; i < fl_json_length(bitmaps); i++) {
        const char *name = fl_json_string(fl_json_element(bitmaps, i), "name");
        if (name != NULL)
            g_ptr_array_add(layer->bitmaps, g_strdup(name));
    }
    return layer;
}

static bool fail(const char *path, const char *message, GError **error)
{
    if (fl_image_is_lock_failure(message))
        return fl_fail(error,
                       "%s is in use by a VM or a mount: give that VM (qmp:SOCKET, libvirt:DOMAIN) "
                       "instead, or end it first",
                       path);
    return fl_fail(error, "%s: %s", path, message);
}

/* Returns qemu-img's output for the file at PATH, opened without its backing files and, where
 * possible, in a jail. */
static JsonObject *ask_about(const char *path, const char *format, bool share, GError **error)
{
    const char *argv[10] = {"qemu-img", "info", "--output=json"};
    g_autoptr(FlJail) jail = fl_jail_new("qemu-img");
    g_autofree char *output = NULL;
    guint n = 3;

    if (share)
        argv[n++] = "--force-share";
    if (format != NULL) {
        argv[n++] = "-f";
        argv[n++] = format;
    }
    argv[n++] = "--";
    argv[n++] = path;
    fl_jail_add_file(jail, path);
    if (!fl_jail_prepare(jail, NULL))
        g_clear_pointer(&jail, fl_jail_free);
    output = fl_process_output(argv, jail, SECONDS, error);
    return output != NULL ? fl_json_parse(output, strlen(output), error) : NULL;
}

GPtrArray *fl_image_layers(const char *path, const char *format, bool share, GError **error)
{
    g_autoptr(GPtrArray) layers = g_ptr_array_new_with_free_func(free_layer);
    g_autofree char *next = g_strdup(path), *next_format = g_strdup(format);

    /* An image whose backing is not a file has no fleecefs bitmaps below. */
    while (next != NULL && *next == '/' && layers->len < CHAIN_MAX) {
        g_autoptr(GError) failure = NULL;
        g_autoptr(JsonObject) info = ask_about(next, next_format, share, &failure);

        if (info == NULL) {
            fail(next, failure->message, error);
            return NULL;
        }
        g_ptr_array_add(layers, parse_layer(info, next));
        g_free(next);
        next = g_strdup(fl_json_string(info, "full-backing-filename"));
        g_free(next_format);
        next_format = g_strdup(fl_json_string(info, "backing-filename-format"));
    }
    return g_steal_pointer(&layers);
}

static bool remove_bitmap(const char *path, const char *name, GError **error)
{
    const char *const argv[] = {"qemu-img", "bitmap", "--remove", "-f", "qcow2",
                                "--",       path,     name,       NULL};
    g_autoptr(GError) failure = NULL;
    g_autofree char *output = NULL;

    /* This writes to the image, which no jail allows. */
    output = fl_process_output(argv, NULL, SECONDS, &failure);
    return output != NULL || fail(path, failure->message, error);
}

bool fl_image_remove_bitmaps(const char *path, const char *format,
                             bool (*wanted)(const char *name, const void *opaque),
                             const void *opaque, GPtrArray *report, GError **error)
{
    g_autoptr(GPtrArray) layers = fl_image_layers(path, format, false, error);
    bool ok = layers != NULL;

    for (guint i = 0; layers != NULL && i < layers->len; i++) {
        const FlImageLayer *layer = layers->pdata[i];

        for (guint j = 0; j < layer->bitmaps->len; j++) {
            const char *name = layer->bitmaps->pdata[j];

            if (!wanted(name, opaque))
                continue;
            if (remove_bitmap(layer->path, name, ok ? error : NULL))
                g_ptr_array_add(report,
                                g_strdup_printf("removed bitmap %s of %s", name, layer->path));
            else
                ok = false;
        }
    }
    return ok;
}
