/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "stored-private.h"

#include <string.h>

/* VMs */

char *fl_stored_generation_folder(const FlStoredImage *image)
{
    return g_path_get_dirname(image->home);
}

/* The known VMs. The same source may be that of several. */
typedef struct {
    FlStored *stored;
    GHashTable *by_uuid, *by_source; /* FlStoredVm by its own text */
} Vms;

/* In by_source: there are several. */
static FlStoredVm several;

static FlStoredVm *add_vm(Vms *vms, const char *uuid, const char *name, const char *source)
{
    FlStoredVm *vm = g_new0(FlStoredVm, 1);

    vm->uuid = g_strdup(uuid);
    vm->name = g_strdup(name);
    vm->source = g_strdup(source);
    g_ptr_array_add(vms->stored->vms, vm);
    if (uuid != NULL)
        g_hash_table_insert(vms->by_uuid, vm->uuid, vm);
    if (source != NULL)
        g_hash_table_insert(vms->by_source, vm->source,
                            g_hash_table_contains(vms->by_source, source) ? &several : vm);
    return vm;
}

/* Finds the known VM that SAID describes; NULL if none matches, or several. Compares by UUID if
 * both have one: sockets move, and VMs may share a name. VMs with a UUID are all known before those
 * without. */
static FlStoredVm *find_vm(const Vms *vms, const FlStoredVm *said)
{
    FlStoredVm *found = NULL;

    if (said->uuid != NULL)
        return g_hash_table_lookup(vms->by_uuid, said->uuid);
    if (said->source != NULL)
        found = g_hash_table_lookup(vms->by_source, said->source);
    return found != &several ? found : NULL;
}

static char *folder_of_vm(const FlStoredImage *image)
{
    g_autofree char *generation = fl_stored_generation_folder(image);

    return g_path_get_dirname(generation);
}

/* Images that record their VM; those with a UUID first, since others may be the same VM. */
static void find_recorded_vms(Vms *vms)
{
    const FlStored *stored = vms->stored;

    for (int with_uuid = 1; with_uuid >= 0; with_uuid--) {
        for (guint i = 0; i < stored->images->len; i++) {
            FlStoredImage *image = stored->images->pdata[i];
            const FlStoredVm *said = &image->said;

            if ((said->uuid == NULL && said->source == NULL) ||
                (said->uuid != NULL) != (with_uuid == 1))
                continue;
            image->vm = find_vm(vms, said);
            if (image->vm == NULL)
                image->vm = add_vm(vms, said->uuid, said->name, said->source);
        }
    }
}

/* Older versions recorded no VM: uses the VM of neighbouring images, or else the folder. */
static void find_other_vms(Vms *vms)
{
    const FlStored *stored = vms->stored;
    g_autoptr(GHashTable) beside = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);

    for (guint i = 0; i < stored->images->len; i++) {
        const FlStoredImage *image = stored->images->pdata[i];
        char *folder = image->vm != NULL ? folder_of_vm(image) : NULL;
        FlStoredVm *there = folder != NULL ? g_hash_table_lookup(beside, folder) : NULL;

        if (folder != NULL)
            g_hash_table_insert(beside, folder,
                                there == NULL || there == image->vm ? image->vm : &several);
    }
    for (guint i = 0; i < stored->images->len; i++) {
        FlStoredImage *image = stored->images->pdata[i];
        g_autofree char *folder = folder_of_vm(image), *name = g_path_get_basename(folder);
        FlStoredVm *there = g_hash_table_lookup(beside, folder);

        if (image->vm != NULL)
            continue;
        if (there == NULL || there == &several) {
            const FlStoredVm said = {.source = folder};
            there = find_vm(vms, &said);
            if (there == NULL)
                there = add_vm(vms, NULL, name, folder);
        }
        image->vm = there;
    }
}

/* Bases */

/* Builds an image's lookup key: its restore point, and its disk's identity or, if BY_NAME, name. */
static char *key_of(const FlStoredImage *image, const char *point, bool by_name)
{
    return by_name ? g_strdup_printf("%s\n%p\n%s", point, (void *)image->vm, image->disk)
                   : g_strdup_printf("%s\n%s", point, image->disk_id);
}

static void index_image(GHashTable *table, FlStoredImage *image, bool by_name)
{
    char *key = key_of(image, image->point, by_name);
    GPtrArray *list = g_hash_table_lookup(table, key);

    if (list == NULL) {
        list = g_ptr_array_new();
        g_hash_table_insert(table, key, list);
    } else {
        g_free(key);
    }
    g_ptr_array_add(list, image);
}

/* The better image has fewer dependencies: a full backup, or a qcow2, which needs no map. */
static bool is_better(const FlStoredImage *a, const FlStoredImage *b)
{
    if ((a->base == NULL) != (b->base == NULL))
        return a->base == NULL;
    return a->form < b->form;
}

/* Takes ownership of WHY. */
static void set_fault(FlStoredImage *image, char *why)
{
    if (image->fault != NULL)
        g_ref_string_release(image->fault);
    image->fault = g_ref_string_new(why);
    g_free(why);
}

/* Chooses the base of IMAGE from CANDIDATES; records a fault if there is not exactly one. */
static void choose_base(FlStoredImage *image, const GPtrArray *candidates, bool by_name)
{
    FlStoredImage *found = NULL;

    for (guint i = 0; candidates != NULL && i < candidates->len; i++) {
        FlStoredImage *other = candidates->pdata[i];

        if (by_name && image->disk_id != NULL && other->disk_id != NULL)
            continue;
        if (found != NULL && !g_str_equal(found->home, other->home)) {
            set_fault(image, g_strdup_printf("several files are restore point %s of %s: %s, %s",
                                             image->base, image->disk, found->path, other->path));
            return;
        }
        if (found == NULL || is_better(other, found))
            found = other;
    }
    if (found != NULL && found->size != image->size)
        set_fault(image, g_strdup_printf("%s and %s are of disks of different sizes", image->path,
                                         found->path));
    else
        image->on = found;
}

static void find_bases(FlStored *stored)
{
    GDestroyNotify drop = (GDestroyNotify)g_ptr_array_unref;
    g_autoptr(GHashTable) by_id = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, drop);
    g_autoptr(GHashTable) by_name = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, drop);

    for (guint i = 0; i < stored->images->len; i++) {
        FlStoredImage *image = stored->images->pdata[i];

        if (image->point != NULL && image->disk_id != NULL)
            index_image(by_id, image, false);
        if (image->point != NULL)
            index_image(by_name, image, true);
    }
    for (guint i = 0; i < stored->images->len; i++) {
        FlStoredImage *image = stored->images->pdata[i];
        g_autofree char *id = NULL, *name = NULL;

        if (image->base == NULL)
            continue;
        id = key_of(image, image->base, false);
        name = key_of(image, image->base, true);
        if (image->disk_id != NULL)
            choose_base(image, g_hash_table_lookup(by_id, id), false);
        if (image->on == NULL && image->fault == NULL)
            choose_base(image, g_hash_table_lookup(by_name, name), true);
        if (image->on == NULL && image->fault == NULL)
            set_fault(image, g_strdup_printf("%s needs restore point %s, which is missing",
                                             image->path, image->base));
    }
}

/* Order */

static int compare_times(struct timespec a, struct timespec b)
{
    if (a.tv_sec != b.tv_sec)
        return a.tv_sec < b.tv_sec ? -1 : 1;
    return (a.tv_nsec > b.tv_nsec) - (a.tv_nsec < b.tv_nsec);
}

static int compare_orders(const FlStoredImage *a, const FlStoredImage *b)
{
    if (a->order_number != b->order_number)
        return a->order_number < b->order_number ? -1 : 1;
    return compare_times(a->order_time, b->order_time);
}

/* An image comes after its base, and is unusable if its base is. */
static void resolve_one(FlStoredImage *image)
{
    image->resolved = true;
    image->order_number = image->number;
    image->order_time = image->time;
    if (image->on == NULL)
        return;
    image->depth = image->on->depth + 1;
    if (image->on->fault != NULL && image->fault == NULL)
        image->fault = g_ref_string_acquire(image->on->fault);
    if (compare_orders(image, image->on) < 0) {
        image->order_number = image->on->order_number;
        image->order_time = image->on->order_time;
    }
}

/* Not recursive: chains may have any length. */
static void resolve_chain(FlStoredImage *image)
{
    g_autoptr(GPtrArray) line = g_ptr_array_new();
    FlStoredImage *step = image;

    for (; step != NULL && !step->resolved && !step->in_line; step = (FlStoredImage *)step->on) {
        step->in_line = true;
        g_ptr_array_add(line, step);
    }
    if (step != NULL && !step->resolved) {
        set_fault(step, g_strdup_printf("%s is based on itself", step->path));
        step->on = NULL;
        resolve_one(step);
    }
    while (line->len > 0) {
        step = g_ptr_array_steal_index(line, line->len - 1);
        if (!step->resolved)
            resolve_one(step);
    }
}

static int compare_images(gconstpointer a, gconstpointer b)
{
    const FlStoredImage *x = *(FlStoredImage *const *)a, *y = *(FlStoredImage *const *)b;
    int order = compare_orders(x, y);

    if (order == 0 && x->depth != y->depth)
        order = x->depth < y->depth ? -1 : 1;
    return order != 0 ? order : strcmp(x->path, y->path);
}

void fl_stored_resolve(FlStored *stored)
{
    Vms vms = {.stored = stored,
               .by_uuid = g_hash_table_new(g_str_hash, g_str_equal),
               .by_source = g_hash_table_new(g_str_hash, g_str_equal)};

    find_recorded_vms(&vms);
    find_other_vms(&vms);
    g_hash_table_unref(vms.by_uuid);
    g_hash_table_unref(vms.by_source);
    find_bases(stored);
    for (guint i = 0; i < stored->images->len; i++)
        resolve_chain(stored->images->pdata[i]);
    g_ptr_array_sort(stored->images, compare_images);
}
