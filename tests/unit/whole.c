/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Complete images, and copies truncated at any length. */
#include "server-helper.h"

#include "source/image/whole.h"

#include <sys/stat.h>
#include <unistd.h>

#define CUTS 8

typedef struct {
    const char *name, *format;
    const char *make; /* makes d.img */
} Kind;

#define WRITE(format)                                                                              \
    "; qemu-io -f " format " -c 'write -q -P 7 1M 3M' -c 'write -q -P 8 6M 1M' d.img"
#define QCOW2(options, size) "qemu-img create -q -f qcow2 -o " options " d.img " size WRITE("qcow2")
#define RAW                                                                                        \
    "qemu-img create -q -f raw r.img 8M; qemu-io -f raw -c 'write -q -P 7 1M 3M' -c 'write -q -P " \
    "8 6M 1M' r.img; "
static const Kind kinds[] = {
    {"qcow2", "qcow2", QCOW2("compat=1.1", "8M")},
    {"qcow2-2", "qcow2", QCOW2("compat=0.10", "8M")},
    {"small-clusters", "qcow2", QCOW2("cluster_size=512", "8M")},
    {"large-clusters", "qcow2", QCOW2("cluster_size=2M", "8M")},
    {"subclusters", "qcow2", QCOW2("extended_l2=on,cluster_size=128k", "8M")},
    {"refcounts-1", "qcow2", QCOW2("refcount_bits=1", "8M")},
    {"refcounts-64", "qcow2", QCOW2("refcount_bits=64,cluster_size=4k", "8M")},
    {"preallocated", "qcow2", QCOW2("preallocation=metadata", "8M")},
    {"odd", "qcow2",
     "head -c 7340500 /dev/urandom > r.img;"
     "qemu-img convert -f raw -O qcow2 r.img d.img"},
    {"compressed", "qcow2", RAW "qemu-img convert -c -f raw -O qcow2 r.img d.img"},
    {"compressed-random", "qcow2",
     "head -c 3M /dev/urandom | base64 > r.img;"
     "qemu-img convert -c -f raw -O qcow2 r.img d.img"},
    {"vdi", "vdi", "qemu-img create -q -f vdi d.img 8M" WRITE("vdi")},
    {"vmdk", "vmdk", "qemu-img create -q -f vmdk d.img 8M" WRITE("vmdk")},
    {"vmdk-stream", "vmdk",
     "head -c 3M /dev/urandom | base64 > r.img;"
     "qemu-img convert -f raw -O vmdk -o subformat=streamOptimized r.img d.img"},
};

/* Whether QEMU reads the same bytes from the copy as from d.img; false if it cannot open it. */
static bool is_same(const Kind *kind)
{
    g_autofree char *command =
        g_strdup_printf("qemu-img compare -q -f %s -F %s d.img c.img 2> log && echo same > out || "
                        "echo other > out",
                        kind->format, kind->format);
    g_autofree char *said = NULL;

    run(command);
    g_assert_true(g_file_get_contents("out", &said, NULL, NULL));
    return strcmp(said, "same\n") == 0;
}

static bool check_copy(const Kind *kind, GError **error)
{
    return fl_image_check_whole("c.img", kind->format, NULL, error);
}

/* A copy that passes has all bytes; a copy that lost half of its file does not pass. */
static void cut(const Kind *kind)
{
    struct stat st;

    run(kind->make);
    g_assert_no_errno(stat("d.img", &st));
    run("cp d.img c.img");
    for (off_t i = 0; i <= CUTS; i++) {
        off_t length = i == 0   ? st.st_size
                       : i == 1 ? st.st_size - 1
                                : st.st_size * (CUTS - i) / CUTS;
        g_autoptr(GError) error = NULL;
        bool whole;

        g_assert_no_errno(truncate("c.img", length));
        whole = check_copy(kind, &error);
        g_test_message("%s: %lld: %s", kind->name, (long long)length,
                       whole ? "whole" : "truncated");
        g_assert_true(whole || i > 0);
        if (whole && length >= 512)
            g_assert_true(is_same(kind));
        else if (!whole)
            assert_error_has(error, "it is truncated");
        if (length <= st.st_size / 2 && length >= 1024)
            g_assert_false(whole);
        if (i == 1 || !whole)
            run("rm c.img; cp d.img c.img");
    }
}

static void test_cuts(Fixture *fixture, gconstpointer data)
{
    for (size_t i = 0; i < G_N_ELEMENTS(kinds); i++) {
        cut(&kinds[i]);
        run("rm *");
    }
}

/* Loses the data, but not the tables. */
static void test_data_file(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;

    run("qemu-img create -q -f qcow2 -o data_file=d.data d.img 8M;"
        "qemu-io -f qcow2 -c 'write -q -P 7 1M 3M' d.img");
    g_assert_true(fl_image_check_whole("d.img", "qcow2", "d.data", &error));
    g_assert_no_errno(truncate("d.data", 3 * MIB));
    g_assert_false(fl_image_check_whole("d.img", "qcow2", "d.data", &error));
    assert_error_has(error, "truncated");
}

/* After a killed VM: a cluster with a refcount, but never written and unreferenced. */
static void test_leak(Fixture *fixture, gconstpointer data)
{
    g_autoptr(FlImageDaemon) daemon = NULL;

    run("qemu-img create -q -f qcow2 d.img 8M; qemu-io -f qcow2 -c 'write -q -P 7 1M 3M' d.img;"
        "printf '\\0\\1' | dd of=d.img bs=1 seek=$((131072 + 2000)) conv=notrunc status=none");
    g_assert_true(fl_image_check_whole("d.img", "qcow2", NULL, NULL));
    daemon = serve("d.img");
}

/* The bitmap's data is last in the file: without it, everything would be clean. */
static void test_bitmap(Fixture *fixture, gconstpointer data)
{
    struct stat st;

    run("qemu-img create -q -f qcow2 d.img 64M; qemu-img bitmap --add -f qcow2 -g 64k d.img b;"
        "qemu-io -f qcow2 -c 'write -q -P 7 1M 3M' -c 'write -q 20M 64k' d.img; cp d.img c.img");
    g_assert_no_errno(stat("d.img", &st));
    g_assert_true(fl_image_check_whole("d.img", "qcow2", NULL, NULL));
    /* Data first, bitmap behind it. */
    for (off_t lost = 65536; st.st_size - lost > 4 * MIB; lost += 65536) {
        g_autoptr(GError) error = NULL;

        g_assert_no_errno(truncate("c.img", st.st_size - lost));
        g_assert_false(fl_image_check_whole("c.img", "qcow2", NULL, &error));
    }
}

static void test_refused(Fixture *fixture, gconstpointer data)
{
    run("qemu-img create -q -f qcow2 base.qcow2 8M;"
        "qemu-io -f qcow2 -c 'write -q -P 7 1M 3M' base.qcow2;"
        "qemu-img create -q -f qcow2 -F qcow2 -b base.qcow2 d.qcow2; truncate -s 2M base.qcow2");
    assert_refused("base.qcow2", "it is truncated");
    assert_refused("d.qcow2", "backing file /");
}

int main(int argc, char **argv)
{
    static const Test tests[] = {
        {"/whole/cuts", test_cuts},       {"/whole/data-file", test_data_file},
        {"/whole/leak", test_leak},       {"/whole/bitmap", test_bitmap},
        {"/whole/refused", test_refused},
    };

    return run_tests(argc, argv, tests, G_N_ELEMENTS(tests));
}
