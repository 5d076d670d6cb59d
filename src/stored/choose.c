/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "stored-private.h"

#include "stored/when.h"

#include <string.h>

/* Limit of the choices listed in an error. */
#define LISTED_MAX 10

const char *fl_stored_vm_label(const FlStoredVm *vm)
{
    return vm->name != NULL ? vm->name : vm->uuid != NULL ? vm->uuid : vm->source;
}

/* Adds NAME to NAMES unless it is in the set SEEN already. */
static void add_name(GPtrArray *names, GHashTable *seen, const char *name)
{
    char *copy;

    if (g_hash_table_contains(seen, name))
        return;
    copy = g_strdup(name);
    g_hash_table_add(seen, g_strdup(name));
    g_ptr_array_add(names, copy);
}

static GHashTable *new_set(void)
{
    return g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
}

static char *join_names(GPtrArray *names)
{
    guint more = names->len > LISTED_MAX ? names->len - LISTED_MAX : 0;
    g_autofree char *text = NULL;

    g_ptr_array_set_size(names, (gint)(names->len - more));
    g_ptr_array_add(names, NULL);
    text = g_strjoinv(", ", (char **)names->pdata);
    return more > 0 ? g_strdup_printf("%s and %u more", text, more) : g_steal_pointer(&text);
}

static char *list_vms(const FlStored *stored)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GHashTable) seen = new_set();

    for (guint i = 0; i < stored->vms->len; i++) {
        const FlStoredVm *vm = stored->vms->pdata[i];
        g_autofree char *text = vm->uuid != NULL && vm->name != NULL
                                    ? g_strdup_printf("%s (%s)", vm->name, vm->uuid)
                                    : g_strdup(fl_stored_vm_label(vm));
        add_name(names, seen, text);
    }
    return join_names(names);
}

static char *list_generations(const GPtrArray *images)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GHashTable) seen = new_set();

    /* Newest first. */
    for (guint i = images->len; i-- > 0;)
        add_name(names, seen, ((const FlStoredImage *)images->pdata[i])->generation);
    return join_names(names);
}

static bool is_vm(const FlStoredImage *image, const char *name)
{
    const FlStoredVm *vm = image->vm;
    g_autofree char *generation = fl_stored_generation_folder(image);
    g_autofree char *folder = g_path_get_dirname(generation);
    g_autofree char *folder_name = g_path_get_basename(folder);

    return g_strcmp0(vm->name, name) == 0 ||
           (vm->uuid != NULL && g_ascii_strcasecmp(vm->uuid, name) == 0) ||
           g_strcmp0(vm->source, name) == 0 || g_str_equal(folder_name, name);
}

/* Returns the images of the VM called NAME (NULL: of all VMs). */
static GPtrArray *images_of(const FlStored *stored, const char *name, GError **error)
{
    g_autoptr(GPtrArray) found = g_ptr_array_new();
    g_autofree char *list = NULL;

    for (guint i = 0; i < stored->images->len; i++) {
        if (name == NULL || is_vm(stored->images->pdata[i], name))
            g_ptr_array_add(found, stored->images->pdata[i]);
    }
    if (found->len > 0)
        return g_steal_pointer(&found);
    list = list_vms(stored);
    fl_fail(error, "backup:%s: no VM %s; stored VMs: %s", stored->top, name, list);
    return NULL;
}

static bool check_one_vm(const FlStored *stored, const GPtrArray *images, GError **error)
{
    const FlStoredImage *first = images->pdata[0];
    g_autofree char *list = NULL;

    for (guint i = 1; i < images->len; i++) {
        if (((const FlStoredImage *)images->pdata[i])->vm == first->vm)
            continue;
        list = list_vms(stored);
        return fl_fail(error,
                       "backup:%s: there are several VMs: %s; choose one with ?vm=NAME, or show "
                       "all with ?all",
                       stored->top, list);
    }
    return true;
}

static bool is_same_generation(const FlStoredImage *a, const FlStoredImage *b)
{
    return a->vm == b->vm && a->number == b->number && g_str_equal(a->generation, b->generation);
}

/* Whether AT is the name of IMAGE's generation, a folder of it, or a prefix of its name. */
static bool is_named(const FlStored *stored, const FlStoredImage *image, const char *at)
{
    g_auto(GStrv) folders = g_strsplit(image->path + strlen(stored->top), "/", -1);

    return g_str_has_prefix(image->generation, at) ||
           (image->point != NULL && g_str_has_prefix(image->point, at)) ||
           g_strv_contains((const char *const *)folders, at);
}

/* Returns the last image taken before END. */
static const FlStoredImage *last_before(const GPtrArray *images, GDateTime *end)
{
    for (guint i = images->len; i-- > 0;) {
        const FlStoredImage *image = images->pdata[i];
        gint64 seconds = g_date_time_to_unix(end);

        if (image->time.tv_sec < seconds ||
            (image->time.tv_sec == seconds &&
             image->time.tv_nsec < g_date_time_get_microsecond(end) * 1000L))
            return image;
    }
    return NULL;
}

/* Returns an image of the generation selected by AT. */
static const FlStoredImage *find_at(const FlStored *stored, const GPtrArray *images, const char *at,
                                    GDateTime *now, GError **error)
{
    g_autoptr(GPtrArray) named = g_ptr_array_new();
    g_autoptr(GDateTime) end = NULL;
    g_autofree char *list = NULL;
    const FlStoredImage *found = NULL;
    bool one = true;

    for (guint i = 0; i < images->len; i++) {
        if (is_named(stored, images->pdata[i], at))
            g_ptr_array_add(named, images->pdata[i]);
    }
    for (guint i = 1; i < named->len; i++)
        one = one && is_same_generation(named->pdata[0], named->pdata[i]);
    if (named->len > 0 && one)
        return named->pdata[0];
    list = list_generations(named->len > 0 ? named : images);
    if (named->len > 0) {
        fl_fail(error, "backup:%s: %s matches several generations: %s", stored->top, at, list);
        return NULL;
    }
    end = fl_when_end(at, now);
    if (end == NULL)
        fl_fail(error,
                "backup:%s: %s is neither a time (tuesday, yesterday, \"2026-11-25 22:10\") nor "
                "one of: %s",
                stored->top, at, list);
    else if ((found = last_before(images, end)) == NULL)
        fl_fail(error, "backup:%s: no backup is that old; stored backups: %s", stored->top, list);
    return found;
}

/* Adds IMAGE to DISKS, or replaces a worse form of the same disk by it. PLACES has the index of
 * each disk of this generation, by name. */
static bool add_disk(const FlStored *stored, GPtrArray *disks, GHashTable *places,
                     const FlStoredImage *image, GError **error)
{
    const FlStoredImage *other;
    gpointer place;

    if (!g_hash_table_lookup_extended(places, image->disk, NULL, &place)) {
        g_hash_table_insert(places, image->disk, GUINT_TO_POINTER(disks->len));
        g_ptr_array_add(disks, (gpointer)image);
        return true;
    }
    other = disks->pdata[GPOINTER_TO_UINT(place)];
    if (!g_str_equal(other->home, image->home))
        return fl_fail(error, "backup:%s: several files are %s of %s: %s, %s", stored->top,
                       image->disk, image->generation, other->path, image->path);
    if ((other->fault != NULL && image->fault == NULL) ||
        ((other->fault != NULL) == (image->fault != NULL) &&
         (other->base != NULL) >= (image->base != NULL) && image->form < other->form))
        disks->pdata[GPOINTER_TO_UINT(place)] = (gpointer)image;
    return true;
}

GPtrArray *fl_stored_choose(const FlStored *stored, const char *vm, const char *at, GDateTime *now,
                            GError **error)
{
    g_autoptr(GPtrArray) images = images_of(stored, vm, error);
    g_autoptr(GPtrArray) disks = g_ptr_array_new();
    g_autoptr(GHashTable) places = g_hash_table_new(g_str_hash, g_str_equal);
    const FlStoredImage *one;

    if (images == NULL || !check_one_vm(stored, images, error))
        return NULL;
    if (at == NULL && stored->damaged->len > 0) {
        fl_fail(error, "backup:%s: %s; ?at= chooses a generation that is not damaged", stored->top,
                (char *)stored->damaged->pdata[0]);
        return NULL;
    }
    one = at != NULL ? find_at(stored, images, at, now, error) : images->pdata[images->len - 1];
    if (one == NULL)
        return NULL;
    for (guint i = 0; i < images->len; i++) {
        if (is_same_generation(one, images->pdata[i]) &&
            !add_disk(stored, disks, places, images->pdata[i], error))
            return NULL;
    }
    for (guint i = 0; i < disks->len; i++) {
        const FlStoredImage *disk = disks->pdata[i];
        if (disk->fault != NULL) {
            fl_fail(error, "backup:%s: %s; ?at= chooses another generation", stored->top,
                    disk->fault);
            return NULL;
        }
    }
    return g_steal_pointer(&disks);
}

GPtrArray *fl_stored_all(const FlStored *stored, const char *vm, GError **error)
{
    g_autoptr(GPtrArray) images = images_of(stored, vm, error);
    g_autoptr(GPtrArray) all = g_ptr_array_new();
    g_autoptr(GHashTable) places = g_hash_table_new(g_str_hash, g_str_equal);
    const FlStoredImage *before = NULL;

    for (guint i = 0; images != NULL && i < images->len; i++) {
        const FlStoredImage *image = images->pdata[i];

        if (image->fault != NULL) {
            g_warning("backup:%s: left out: %s", stored->top, image->fault);
            continue;
        }
        /* The images are sorted by generation. */
        if (before != NULL && !is_same_generation(before, image))
            g_hash_table_remove_all(places);
        before = image;
        if (!add_disk(stored, all, places, image, error))
            return NULL;
    }
    return images != NULL ? g_steal_pointer(&all) : NULL;
}
