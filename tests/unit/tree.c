/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The tree: names, inode numbers, and collisions. */
#include "memory.h"

#include "map/context.h"
#include "mount/tree.h"

#include <string.h>

#define SIZE      (UINT64_C(10) << 20)
#define BITMAP    "qemu:dirty-bitmap:"
#define PARTS_MAX 4

static const FlViewOptions view_options = {
    .cache = 1 << 20, .readahead = 1 << 20, .split = 1 << 20};

typedef struct {
    FlTree *tree;
    FlCache *cache;
    GPtrArray *disks; /* of FlDisk */
    GPtrArray *memories;
} World;

static void world_init(World *world)
{
    world->tree = fl_tree_new();
    world->cache = fl_cache_new(1 << 20);
    world->disks = g_ptr_array_new_with_free_func((GDestroyNotify)fl_disk_unref);
    world->memories = g_ptr_array_new_with_free_func((GDestroyNotify)fl_source_unref);
}

static void world_clear(World *world)
{
    for (guint i = 0; i < world->disks->len; i++)
        fl_disk_close(world->disks->pdata[i], g_get_monotonic_time() + 10 * G_USEC_PER_SEC);
    while (g_main_context_iteration(NULL, FALSE))
        continue;
    fl_tree_free(world->tree);
    fl_cache_free(world->cache);
    g_ptr_array_unref(world->disks);
    g_ptr_array_unref(world->memories);
}

static FlMap *one_extent(uint64_t size, uint32_t type)
{
    FlMapBuilder *builder = fl_map_builder_new();

    g_assert_cmpint(fl_map_builder_add(builder, size, type), ==, 0);
    return fl_map_builder_finish(builder);
}

/* Adds a disk with these bitmaps (NULL-terminated) at PATH, "a/b". */
static bool add(World *world, const char *path, GError **error, ...)
{
    g_auto(GStrv) parts = g_strsplit(path, "/", PARTS_MAX);
    Memory *memory = memory_new(SIZE);
    FlOrigin *origin = fl_origin_new("source", parts[g_strv_length(parts) - 1]);
    FlDisk *disk;
    va_list bitmaps;
    const char *name;

    memory->maps = fl_disk_maps_new();
    fl_disk_maps_add(memory->maps, FL_CONTEXT_NAME_ALLOCATION, one_extent(SIZE, 0));
    va_start(bitmaps, error);
    while ((name = va_arg(bitmaps, const char *)) != NULL) {
        g_autofree char *context = g_strconcat(BITMAP, name, NULL);
        fl_disk_maps_add(memory->maps, context, one_extent(SIZE, FL_DIRTY));
    }
    va_end(bitmaps);
    disk = memory_disk(memory);
    g_ptr_array_add(world->disks, disk);
    g_ptr_array_add(world->memories, memory);
    return fl_tree_add_export(world->tree, (const char *const *)parts,
                              fl_export_new(disk, origin, world->cache, &view_options), error);
}

/* The node at PATH; ROOM as for fl_node_lookup(). */
static FlNode *walk(const World *world, const char *path, FlNode *room)
{
    g_auto(GStrv) parts = g_strsplit(path, "/", -1);
    FlNode *node = fl_tree_root(world->tree);

    for (guint i = 0; parts[i] != NULL && node != NULL; i++)
        node = fl_node_lookup(world->tree, node, parts[i], room);
    return node;
}

static FlNode *node_at(const World *world, const char *path)
{
    FlNode room, *node = walk(world, path, &room);

    g_assert_nonnull(node);
    g_assert_true(node != &room);
    return node;
}

static bool is_absent(const World *world, const char *path)
{
    FlNode room;

    return walk(world, path, &room) == NULL;
}

static void test_names(void)
{
    g_autoptr(GError) error = NULL;
    World world;

    world_init(&world);
    g_assert_true(add(&world, "vm", &error, "sunday", "a/b", NULL));
    g_assert_true(add(&world, "web/-x", &error, NULL));
    g_assert_no_error(error);
    g_assert_true(fl_node_is_folder(node_at(&world, "vm")));
    g_assert_nonnull(node_at(&world, "vm/disk.raw")->file);
    g_assert_nonnull(node_at(&world, "vm/info.json")->file);
    g_assert_nonnull(node_at(&world, "vm/dirty/sunday.raw")->file);
    g_assert_nonnull(node_at(&world, "vm/dirty/a%2Fb.map")->file);
    g_assert_nonnull(node_at(&world, "web/%2Dx/disk.raw")->file);
    g_assert_true(is_absent(&world, "vm/depth.map"));
    g_assert_true(is_absent(&world, "vm/dirty/monday.raw"));
    g_assert_true(is_absent(&world, "web/-x"));
    g_assert_true(is_absent(&world, "web/%2Dx/dirty"));
    g_assert_true(is_absent(&world, "vm/"));
    g_assert_cmpuint(fl_node_subfolders(fl_tree_root(world.tree)), ==, 2);
    g_assert_cmpuint(fl_node_subfolders(node_at(&world, "vm")), ==, 2); /* dirty, split */
    g_assert_true(node_at(&world, "vm/disk.raw")->parent == node_at(&world, "vm"));
    g_assert_cmpuint(fl_tree_exports(world.tree)->len, ==, 2);
    world_clear(&world);
}

static void collect(const World *world, const FlNode *folder, GHashTable *inodes)
{
    for (guint i = 0; i < folder->children->len; i++) {
        const FlNode *node = folder->children->pdata[i];
        FlNode room;

        g_assert_true(fl_tree_find(world->tree, node->ino, &room) == node);
        g_assert_true(g_hash_table_add(inodes, GSIZE_TO_POINTER(node->ino)));
        if (fl_node_is_folder(node))
            collect(world, node, inodes);
    }
}

/* Inode numbers are unique, and the same in each mount, whatever else is mounted. */
static void test_inodes(void)
{
    static const char *const paths[] = {"vm", "vm/disk.raw", "vm/dirty/sunday.map", "vm/split"};
    g_autoptr(GHashTable) inodes = g_hash_table_new(NULL, NULL);
    g_autoptr(GError) error = NULL;
    World first, second;
    FlNode room;

    world_init(&first);
    world_init(&second);
    g_assert_true(add(&first, "vm", &error, "sunday", NULL));
    g_assert_true(add(&second, "other", &error, "sunday", NULL));
    g_assert_true(add(&second, "vm", &error, "monday", "sunday", NULL));
    for (size_t i = 0; i < G_N_ELEMENTS(paths); i++)
        g_assert_cmpuint(node_at(&first, paths[i])->ino, ==, node_at(&second, paths[i])->ino);
    collect(&second, fl_tree_root(second.tree), inodes);
    g_assert_null(fl_tree_find(second.tree, 0, &room));
    g_assert_null(fl_tree_find(second.tree, UINT64_MAX, &room));
    g_assert_true(fl_tree_find(second.tree, 1, &room) == fl_tree_root(second.tree));
    world_clear(&first);
    world_clear(&second);
}

static void test_pieces(void)
{
    static const char *const bad[] = {"vm/split/10",      "vm/split/000010", "vm/split/0",
                                      "vm/split/-00001",  "vm/split/00000a", "vm/split/0000000",
                                      "vm/split/000001/", "vm/split/"};
    g_autoptr(GError) error = NULL;
    World world;
    FlNode room, found, *folder;

    world_init(&world);
    g_assert_true(add(&world, "vm", &error, NULL));
    folder = node_at(&world, "vm/split");
    g_assert_true(fl_node_is_folder(folder) && !fl_node_is_piece(folder));
    g_assert_cmpuint(fl_split_count(folder->split), ==, 10);
    for (uint64_t i = 0; i < 10; i++) {
        g_autofree char *path = g_strdup_printf("vm/split/%06u", (unsigned)i);

        g_assert_true(walk(&world, path, &room) == &room);
        g_assert_true(fl_node_is_piece(&room) && !fl_node_is_folder(&room));
        g_assert_cmpuint(room.piece, ==, i);
        g_assert_cmpuint(room.ino, ==, fl_node_piece(folder, 0).ino + i);
        g_assert_true(fl_tree_find(world.tree, room.ino, &found) == &found);
        g_assert_cmpuint(found.piece, ==, i);
        g_assert_true(found.parent == folder && found.export == folder->export);
    }
    g_assert_null(fl_tree_find(world.tree, fl_node_piece(folder, 0).ino + 10, &found));
    for (size_t i = 0; i < G_N_ELEMENTS(bad); i++)
        g_assert_true(is_absent(&world, bad[i]));
    world_clear(&world);
}

/* Two nodes with one name are an error that names both sources, or both exports of one. */
static void test_collisions(void)
{
    g_autoptr(GError) folders = NULL, files = NULL, inside = NULL, above = NULL, none = NULL;
    World world;

    world_init(&world);
    g_assert_true(add(&world, "a%", &none, NULL));
    g_assert_true(add(&world, "deep/er/x", &none, NULL));
    g_assert_no_error(none);
    g_assert_false(add(&world, "a%", &folders, NULL));
    g_assert_nonnull(
        strstr(folders->message, "two sources memory would both be in the folder a%25"));
    g_assert_false(add(&world, "b", &files, "s", "s", NULL));
    g_assert_nonnull(strstr(files->message, "dirty/s.raw"));
    g_assert_false(add(&world, "a%/y", &inside, NULL));
    g_assert_nonnull(strstr(inside->message, "a%"));
    g_assert_false(add(&world, "deep/er", &above, NULL));
    g_assert_nonnull(
        strstr(above->message, "\"x\" and \"er\" of memory would both be in the folder deep/er"));
    world_clear(&world);
}

static GBytes *make_text(void *opaque)
{
    return g_bytes_new(opaque, strlen(opaque));
}

static void test_text(void)
{
    char text[] = "text";
    FlNode *node;
    World world;

    world_init(&world);
    fl_tree_add_text(world.tree, ".fleecefs/status.json", make_text, text);
    fl_tree_add_text(world.tree, ".fleecefs/metrics", make_text, text);
    node = node_at(&world, ".fleecefs/metrics");
    g_assert_true(node->make_text == make_text && node->opaque == text && node->file == NULL);
    g_assert_cmpuint(node_at(&world, ".fleecefs")->children->len, ==, 2);
    world_clear(&world);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/tree/names", test_names);
    g_test_add_func("/tree/inodes", test_inodes);
    g_test_add_func("/tree/pieces", test_pieces);
    g_test_add_func("/tree/collisions", test_collisions);
    g_test_add_func("/tree/text", test_text);
    return g_test_run();
}
