/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Image files: real storage daemons on real images. */
#include "server-helper.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

static void test_raw(Fixture *fixture, gconstpointer data)
{
    g_autoptr(FlImageDaemon) daemon = NULL;
    const FlImageInfo *info;
    struct stat st;

    run("qemu-img create -q -f raw d.raw 4M; qemu-io -f raw -c 'write -P 7 1M 64k' d.raw");
    assert_serves("d.raw", 4 * MIB, MIB, 7);
    run("head -c 1000 /dev/zero > odd.img");
    assert_serves("odd.img", 1024, 0, 0); /* QEMU counts sectors */
    run("printf 'no header that any driver knows, so a disk' > text");
    assert_serves("text", 512, 3, 'h');

    daemon = serve("d.raw");
    info = &daemon->image->info;
    g_assert_cmpstr(info->name, ==, "d");
    g_assert_cmpstr(info->format, ==, "raw");
    g_assert_cmpuint(info->bitmaps->len, ==, 0);
    g_assert_no_errno(stat("d.raw", &st));
    g_assert_cmpint(info->mtime.tv_sec, ==, st.st_mtim.tv_sec);
    g_assert_cmpint(info->mtime.tv_nsec, ==, st.st_mtim.tv_nsec);
    g_assert_cmpint(info->ctime.tv_nsec, ==, st.st_ctim.tv_nsec);
}

/* Only the external data file is written to. */
static void test_times_of_a_data_file(Fixture *fixture, gconstpointer data)
{
    g_autoptr(FlImageDaemon) daemon = NULL;
    struct stat st;

    run("qemu-img create -q -f qcow2 -o data_file=d.data,data_file_raw=on d.qcow2 4M;"
        "touch -d @1000000000.5 d.qcow2; touch -d @1000000001.25 d.data");
    daemon = serve("d.qcow2");
    g_assert_cmpint(daemon->image->info.mtime.tv_sec, ==, 1000000001);
    g_assert_cmpint(daemon->image->info.mtime.tv_nsec, ==, 250000000);
    g_assert_no_errno(stat("d.data", &st));
    g_assert_cmpint(daemon->image->info.ctime.tv_sec, >=, st.st_ctim.tv_sec);
}

static int note_extent(void *opaque, const char *context, uint64_t offset, uint32_t *entries,
                       size_t n, int *error)
{
    GString *seen = opaque;

    g_string_append(seen, context);
    for (size_t i = 0; i + 1 < n; i += 2)
        g_string_append_printf(seen, " %u:%u", entries[i] >> 16, entries[i + 1]);
    g_string_append(seen, "; ");
    return 0;
}

static void assert_has(const GString *text, const char *part)
{
    if (strstr(text->str, part) == NULL)
        g_error("'%s' is not in: %s", part, text->str);
}

static void test_bitmaps(Fixture *fixture, gconstpointer data)
{
    static const char *const contexts[] = {"base:allocation", "qemu:allocation-depth",
                                           "qemu:dirty-bitmap:b0", "qemu:dirty-bitmap:a b/c", NULL};
    g_autoptr(FlImageDaemon) daemon = NULL;
    g_autoptr(GString) seen = g_string_new(NULL);
    const FlBitmap *bitmap;
    struct nbd_handle *nbd;

    run("qemu-img create -q -f qcow2 d.qcow2 1M; qemu-img bitmap --add d.qcow2 b0;"
        "qemu-io -c 'write -P 9 64k 64k' d.qcow2;"
        "qemu-img bitmap --add -g 512 d.qcow2 'a b/c'; qemu-img bitmap --disable d.qcow2 b0");
    daemon = serve("d.qcow2");
    g_assert_cmpstr(daemon->image->info.format, ==, "qcow2");
    g_assert_cmpuint(daemon->image->info.bitmaps->len, ==, 2);
    bitmap = daemon->image->info.bitmaps->pdata[0];
    g_assert_cmpstr(bitmap->name, ==, "a b/c");
    g_assert_cmpuint(bitmap->granularity, ==, 512);
    g_assert_false(bitmap->inconsistent);
    bitmap = daemon->image->info.bitmaps->pdata[1];
    g_assert_cmpstr(bitmap->name, ==, "b0");
    g_assert_cmpuint(bitmap->granularity, ==, 65536);

    nbd = connect_to(daemon->server, "d", contexts);
    assert_byte(nbd, 65536, 9);
    g_assert_cmpint(
        nbd_block_status(nbd, MIB, 0, (nbd_extent_callback){note_extent, seen, NULL}, 0), ==, 0);
    assert_has(seen, "base:allocation 1:3 1:0 14:3;");
    assert_has(seen, "qemu:allocation-depth 1:0 1:1 14:0;");
    assert_has(seen, "qemu:dirty-bitmap:b0 1:0 1:1 14:0;");
    assert_has(seen, "qemu:dirty-bitmap:a b/c 16:0;");
    nbd_close(nbd);
}

/* A VM that is killed leaves its bitmaps marked as in use. */
static void test_inconsistent_bitmap(Fixture *fixture, gconstpointer data)
{
    static const char *const contexts[] = {"qemu:dirty-bitmap:lost", "qemu:dirty-bitmap:late",
                                           NULL};
    g_autoptr(FlImageDaemon) daemon = NULL;
    const FlBitmap *bitmap;
    struct nbd_handle *nbd;

    run("qemu-img create -q -f qcow2 d.qcow2 1M; qemu-img bitmap --add d.qcow2 lost;"
        "mkfifo in; qemu-io d.qcow2 < in > out & exec 3> in; printf 'write 0 64k\\n' >&3;"
        "while ! grep -q wrote out; do :; done; kill -9 $!; wait $! || true;"
        "qemu-img bitmap --add d.qcow2 late");
    daemon = serve("d.qcow2");
    g_assert_cmpuint(daemon->image->info.bitmaps->len, ==, 2);
    bitmap = daemon->image->info.bitmaps->pdata[0];
    g_assert_cmpstr(bitmap->name, ==, "late");
    g_assert_false(bitmap->inconsistent);
    bitmap = daemon->image->info.bitmaps->pdata[1];
    g_assert_cmpstr(bitmap->name, ==, "lost");
    g_assert_true(bitmap->inconsistent);

    nbd = connect_to(daemon->server, "d", contexts);
    g_assert_cmpint(nbd_can_meta_context(nbd, contexts[0]), ==, 0);
    g_assert_cmpint(nbd_can_meta_context(nbd, contexts[1]), ==, 1);
    nbd_close(nbd);
}

static void test_chain(Fixture *fixture, gconstpointer data)
{
    static const char *const contexts[] = {"qemu:allocation-depth", "qemu:dirty-bitmap:low", NULL};
    g_autoptr(FlImageDaemon) daemon = NULL;
    g_autoptr(GString) seen = g_string_new(NULL);
    struct nbd_handle *nbd;

    run("mkdir sub; cd sub; qemu-img create -q -f raw base.raw 1M;"
        "qemu-io -f raw -c 'write -P 1 0 1M' base.raw;"
        "qemu-img create -q -f qcow2 -b base.raw -F raw mid.qcow2;"
        "qemu-img bitmap --add mid.qcow2 low; qemu-io -c 'write -P 2 64k 64k' mid.qcow2;"
        "qemu-img create -q -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2;"
        "qemu-io -c 'write -P 3 128k 64k' top.qcow2; ln -s sub/top.qcow2 ../linked.x.qcow2 || true;"
        "cd ..; ln -s $PWD/sub/top.qcow2 sub/link.qcow2");
    daemon = serve("sub/../sub/top.qcow2");
    g_assert_cmpuint(daemon->image->info.bitmaps->len, ==, 0);
    nbd = connect_to(daemon->server, "top", contexts);
    assert_byte(nbd, 0, 1);
    assert_byte(nbd, 65536, 2);
    assert_byte(nbd, 131072, 3);
    g_assert_cmpint(nbd_can_meta_context(nbd, contexts[1]), ==, 0);
    nbd_block_status(nbd, MIB, 0, (nbd_extent_callback){note_extent, seen, NULL}, 0);
    assert_has(seen, "qemu:allocation-depth 1:3 1:2 1:1 13:3;");
    nbd_close(nbd);

    assert_serves("sub/link.qcow2", MIB, 131072, 3);
    run("rm sub/mid.qcow2");
    assert_refused("sub/top.qcow2", "sub/mid.qcow2");
}

static void test_data_file(Fixture *fixture, gconstpointer data)
{
    g_autoptr(FlImageDaemon) daemon = NULL;
    struct nbd_handle *nbd;

    run("qemu-img create -q -f qcow2 -o data_file=d.raw,data_file_raw=on d.qcow2 1M;"
        "qemu-img bitmap --add d.qcow2 b; qemu-io -c 'write -P 5 0 64k' d.qcow2");
    daemon = serve("d.qcow2");
    nbd = connect_to(daemon->server, "d", NULL);
    assert_byte(nbd, 100, 5);
    nbd_close(nbd);
    g_assert_cmpuint(daemon->image->info.bitmaps->len, ==, 1);
}

static void test_formats(Fixture *fixture, gconstpointer data)
{
    static const char *const formats[] = {"vmdk", "vdi", "vhdx", "qed", "vpc"};

    for (size_t i = 0; i < G_N_ELEMENTS(formats); i++) {
        g_autofree char *command =
            g_strdup_printf("qemu-img create -q -f raw d.raw 16M;"
                            "qemu-io -f raw -c 'write -P 6 1M 64k' d.raw;"
                            "qemu-img convert -f raw -O %s%s d.raw d.%s",
                            formats[i], i == 4 ? " -o force_size=on" : "", formats[i]);
        g_autofree char *path = g_strconcat("d.", formats[i], NULL);
        g_autoptr(FlImageDaemon) daemon = NULL;

        run(command);
        assert_serves(path, 16 * MIB, MIB, 6);
        daemon = serve(path);
        g_assert_cmpstr(daemon->image->info.format, ==, formats[i]);
    }
}

static void test_names(Fixture *fixture, gconstpointer data)
{
    static const struct {
        const char *path, *name;
    } cases[] = {
        {"a:b,c=d.qcow2", "a:b,c=d"},
        {"nbd:unix:x", "nbd:unix:x"},
        {"json:{}", "json:{}"},
        {"-x.y.qcow2", "-x.y"},
        {"--help", "--help"},
        {"q\"u'o\\te%s.qcow2", "q\"u'o\\te%s"},
        {"line\nbreak\t\x01.qcow2", "line\nbreak\t\x01"},
        {"\xc3\xa4\xf0\x9f\x92\xbe.img", "\xc3\xa4\xf0\x9f\x92\xbe"},
        {".hidden", ".hidden"},
        {"dot.", "dot"},
        {"file:x", "file:x"},
        {"fat:rw:x", "fat:rw:x"},
        {" ", " "},
    };
    g_autofree char *longest = g_strnfill(255, 'n');

    run("qemu-img create -q -f qcow2 -o cluster_size=512 model 1M; qemu-img bitmap --add model b");
    for (size_t i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(FlImageDaemon) daemon = NULL;

        g_assert_no_errno(link("model", cases[i].path));
        daemon = serve(cases[i].path);
        g_assert_cmpstr(daemon->image->info.name, ==, cases[i].name);
        g_assert_cmpstr(daemon->image->info.format, ==, "qcow2");
        nbd_close(connect_to(daemon->server, cases[i].name, NULL));
    }
    g_assert_no_errno(link("model", longest));
    assert_serves(longest, MIB, 0, 0);
    g_assert_no_errno(link("model", "latin\xe4"));
    assert_refused("latin\xe4", "not valid UTF-8");
}

static void test_refused(Fixture *fixture, gconstpointer data)
{
    g_autofree char *absent = g_build_filename(fixture->dir, "absent", NULL);

    run("mkdir dir; mkfifo fifo; : > empty; qemu-img create -q -f qcow2 zero.qcow2 0;"
        "qemu-img create -q -f qcow2 broken.qcow2 1M;"
        "printf '\\377\\377' | dd of=broken.qcow2 bs=1 seek=20 conv=notrunc status=none;"
        /* Fails if a busy CPU spoils its benchmark. */
        "until qemu-img create -q -f luks --object secret,id=s,data=x "
        "-o key-secret=s,iter-time=10 luks.img 1M 2>/dev/null; do :; done; ln -s nowhere dangling; "
        ": > secret; chmod 0 secret");
    assert_refused("absent", "No such file");
    assert_refused("absent", absent);
    assert_refused("dangling", "No such file");
    assert_refused("dir", "it is a folder");
    assert_refused("fifo", "neither a file nor a block device");
    assert_refused("/dev/null", "neither a file nor a block device");
    assert_refused("empty", "size 0: there is nothing to mount; if it should have data");
    assert_refused("zero.qcow2", "size 0");
    assert_refused("broken.qcow2", "broken.qcow2");
    assert_refused("luks.img", "it is encrypted");
    if (geteuid() != 0)
        assert_refused("secret", "Permission denied");
}

/* The image or its backing file is open for writing. */
static void test_locked(Fixture *fixture, gconstpointer data)
{
    static const char *const held[] = {"d.qcow2", "d.raw"};

    run("qemu-img create -q -f raw d.raw 1M; qemu-img create -q -f qcow2 d.qcow2 1M;"
        "qemu-img create -q -f qcow2 -b d.raw -F raw on.raw.qcow2;"
        "qemu-img create -q -f qcow2 -b d.qcow2 -F qcow2 on.qcow2.qcow2; mkfifo in");
    for (size_t i = 0; i < G_N_ELEMENTS(held); i++) {
        const char *format = i == 0 ? "qcow2" : "raw";
        const char *argv[] = {"/bin/sh", "-c",    "exec qemu-io -f $0 $1 < in > out",
                              format,    held[i], NULL};
        g_autofree char *overlay = g_strdup_printf("on.%s.qcow2", format);
        g_autoptr(GError) error = NULL;
        GPid pid;
        int in;

        g_spawn_async(NULL, (char **)argv, NULL, G_SPAWN_DO_NOT_REAP_CHILD, NULL, NULL, &pid,
                      &error);
        g_assert_no_error(error);
        in = open("in", O_WRONLY | O_CLOEXEC);
        g_assert_cmpint(write(in, "write 0 512\n", 12), ==, 12);
        run("while ! grep -q wrote out; do :; done; rm out");

        assert_refused(held[i], "is in use: a running VM");
        assert_refused(held[i], "qmp:SOCKET or libvirt:DOMAIN");
        assert_refused(overlay, "is in use: a running VM");
        close(in);
        waitpid(pid, NULL, 0);
        assert_serves(held[i], MIB, 0, 0xcd);
    }
}

/* An image being served is locked against writers, but not against readers. */
static void test_shared(Fixture *fixture, gconstpointer data)
{
    g_autoptr(FlImageDaemon) first = NULL, second = NULL, over = NULL;

    run("qemu-img create -q -f raw d.raw 1M; qemu-img create -q -f qcow2 -b d.raw -F raw d.qcow2;"
        "qemu-img bitmap --add d.qcow2 b");
    run("sleep 0.02; md5sum d.raw d.qcow2 > sums; stat -c '%y %z' d.raw d.qcow2 > times");
    first = serve("d.raw");
    second = serve("d.raw");
    over = serve("d.qcow2");
    run("! qemu-io -f raw -c 'write 0 512' d.raw; ! qemu-io -f qcow2 -c 'write 0 512' d.qcow2;"
        "qemu-io -r -f raw -c 'read 0 512' d.raw");
    g_clear_pointer(&first, fl_image_daemon_free);
    run("! qemu-io -f raw -c 'write 0 512' d.raw");
    g_clear_pointer(&second, fl_image_daemon_free);
    run("! qemu-io -f raw -c 'write 0 512' d.raw");
    g_clear_pointer(&over, fl_image_daemon_free);
    run("md5sum -c --quiet sums; stat -c '%y %z' d.raw d.qcow2 | cmp - times;"
        "qemu-io -f raw -c 'write 0 512' d.raw");
}

/* More connections than one mount opens. */
static void test_many_connections(Fixture *fixture, gconstpointer data)
{
    g_autoptr(FlImageDaemon) daemon = NULL;
    struct nbd_handle *nbd[120];

    run("qemu-img create -q -f raw d.raw 1M");
    daemon = serve("d.raw");
    for (size_t i = 0; i < G_N_ELEMENTS(nbd); i++)
        nbd[i] = connect_to(daemon->server, "d", NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(nbd); i++) {
        assert_byte(nbd[i], i, 0);
        nbd_close(nbd[i]);
    }
}

/* The storage daemon dies under a mount: connections end, and the reason is available. */
static void test_daemon_dies(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FlImageDaemon) daemon = NULL;
    struct nbd_handle *nbd;
    char byte;

    run("qemu-img create -q -f raw d.raw 1M");
    daemon = serve("d.raw");
    g_assert_true(fl_server_check(daemon->server, FL_SERVER_CHECK_MS, &error));
    nbd = connect_to(daemon->server, "d", NULL);
    kill(fl_server_pid(daemon->server), SIGKILL);
    g_assert_cmpint(nbd_pread(nbd, &byte, 1, 0, 0), ==, -1);
    nbd_close(nbd);
    while (fl_server_check(daemon->server, FL_SERVER_CHECK_MS, &error))
        ;
    assert_error_has(error, "qemu-storage-daemon was killed by signal 9");
}

static void test_no_qemu(Fixture *fixture, gconstpointer data)
{
    g_autofree char *path = g_strdup(g_getenv("PATH"));

    run("qemu-img create -q -f raw d.raw 1M; mkdir bin");
    g_setenv("PATH", "bin", TRUE);
    assert_refused("d.raw", "qemu-img is not installed");
    run("PATH=/usr/bin:/bin; printf '#!/bin/sh\\nexec /usr/bin/qemu-img \"$@\"' > bin/qemu-img;"
        "chmod +x bin/qemu-img");
    assert_refused("d.raw", "qemu-storage-daemon is not installed");
    run("PATH=/usr/bin:/bin; printf '#!/bin/sh\\necho qsd: no chardev >&2; exit 1' > "
        "bin/qemu-storage-daemon; chmod +x bin/qemu-storage-daemon");
    assert_refused("d.raw", "qemu-storage-daemon ended with status 1: qsd: no chardev");
    g_setenv("PATH", path, TRUE);
}

int main(int argc, char **argv)
{
    static const Test tests[] = {
        {"/server/image/raw", test_raw},
        {"/server/image/data-file-times", test_times_of_a_data_file},
        {"/server/image/bitmaps", test_bitmaps},
        {"/server/image/inconsistent-bitmap", test_inconsistent_bitmap},
        {"/server/image/chain", test_chain},
        {"/server/image/data-file", test_data_file},
        {"/server/image/formats", test_formats},
        {"/server/image/names", test_names},
        {"/server/image/refused", test_refused},
        {"/server/image/locked", test_locked},
        {"/server/image/shared", test_shared},
        {"/server/image/many-connections", test_many_connections},
        {"/server/image/daemon-dies", test_daemon_dies},
        {"/server/image/no-qemu", test_no_qemu},
    };

    return run_tests(argc, argv, tests, G_N_ELEMENTS(tests));
}
