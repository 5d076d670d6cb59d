/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Servers that we start: real storage daemons on real images, nbdkit, and commands that fail. */
#include "disk/server.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <libnbd.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (1 << 20)

/* Each test has a folder of its own, which is also the current one. */
typedef struct {
    char *dir;
    guint descriptors;
} Fixture;

static void run(const char *command)
{
    g_autoptr(GError) error = NULL;
    g_autofree char *out = NULL, *err = NULL;
    const char *argv[] = {"/bin/sh", "-euc", command, NULL};
    int status;

    g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_DEFAULT, NULL, NULL, &out, &err, &status,
                 &error);
    g_assert_no_error(error);
    if (status != 0)
        g_error("%s: %s%s", command, out, err);
}

static guint count_entries(const char *path)
{
    g_autoptr(GDir) dir = g_dir_open(path, 0, NULL);
    guint n = 0;

    g_assert_nonnull(dir);
    while (g_dir_read_name(dir) != NULL)
        n++;
    return n;
}

static void set_up(Fixture *fixture, gconstpointer data)
{
    fixture->dir = g_dir_make_tmp("fleecefs-test-XXXXXX", NULL);
    g_assert_no_errno(g_chdir(fixture->dir));
    fixture->descriptors = count_entries("/proc/self/fd");
}

/* Nothing may be left: no descriptor, no child, nothing in the folder of sockets. */
static void tear_down(Fixture *fixture, gconstpointer data)
{
    g_autofree char *remove =
        g_strdup_printf("chmod -R u+rwX %s; rm -rf %s", fixture->dir, fixture->dir);

    g_assert_cmpint(waitpid(-1, NULL, WNOHANG), ==, -1);
    g_assert_cmpint(errno, ==, ECHILD);
    g_assert_cmpuint(count_entries("/proc/self/fd"), ==, fixture->descriptors);
    g_assert_cmpuint(count_entries(g_getenv("XDG_RUNTIME_DIR")), ==, 0);
    g_assert_no_errno(g_chdir("/"));
    run(remove);
    g_free(fixture->dir);
}

static void assert_error_has(const GError *error, const char *part)
{
    g_assert_nonnull(error);
    g_assert_null(strchr(error->message, '\n'));
    if (strstr(error->message, part) == NULL)
        g_error("'%s' is not in: %s", part, error->message);
    g_test_message("%s", error->message);
}

/* The descriptors above stderr that a live server shares with us are none; see test_inherited. */
static FlServer *serve(const char *path)
{
    g_autoptr(GError) error = NULL;
    FlServer *server = fl_server_new_image(path, NULL, &error);

    g_assert_no_error(error);
    g_assert_cmpuint(count_entries(g_getenv("XDG_RUNTIME_DIR")), ==, 0);
    return server;
}

static struct nbd_handle *connect_to(const FlServer *server, const char *export,
                                     const char *const *contexts)
{
    g_autofree char *path = g_strdup_printf("/proc/self/fd/%d", fl_server_socket(server));
    struct nbd_handle *nbd = nbd_create();

    nbd_set_export_name(nbd, export);
    for (; contexts != NULL && *contexts != NULL; contexts++)
        nbd_add_meta_context(nbd, *contexts);
    if (nbd_connect_unix(nbd, path) < 0)
        g_error("%s", nbd_get_error());
    return nbd;
}

static void assert_byte(struct nbd_handle *nbd, uint64_t offset, uint8_t expected)
{
    uint8_t sector[512]; /* some formats read no less */

    if (nbd_pread(nbd, sector, sizeof sector, offset & ~(uint64_t)511, 0) < 0)
        g_error("%s", nbd_get_error());
    g_assert_cmphex(sector[offset % 512], ==, expected);
}

static void assert_serves(const char *path, int64_t size, uint64_t offset, uint8_t byte)
{
    g_autoptr(FlServer) server = serve(path);
    struct nbd_handle *nbd = connect_to(server, fl_server_image(server)->name, NULL);

    g_assert_cmpint(nbd_get_size(nbd), ==, size);
    g_assert_cmpint(nbd_is_read_only(nbd), ==, 1);
    assert_byte(nbd, offset, byte);
    nbd_close(nbd);
}

static void assert_refused(const char *path, const char *part)
{
    g_autoptr(GError) error = NULL;

    g_assert_null(fl_server_new_image(path, NULL, &error));
    assert_error_has(error, part);
    g_assert_true(error->domain == FL_ERROR);
}

static void test_raw(Fixture *fixture, gconstpointer data)
{
    g_autoptr(FlServer) server = NULL;
    const FlImageInfo *info;
    struct stat st;

    run("qemu-img create -q -f raw d.raw 4M; qemu-io -f raw -c 'write -P 7 1M 64k' d.raw");
    assert_serves("d.raw", 4 * MIB, MIB, 7);
    run("head -c 1000 /dev/zero > odd.img");
    assert_serves("odd.img", 1024, 0, 0); /* QEMU counts sectors */
    run("printf 'no header that any driver knows, so a disk' > text");
    assert_serves("text", 512, 3, 'h');

    server = serve("d.raw");
    info = fl_server_image(server);
    g_assert_cmpstr(info->name, ==, "d");
    g_assert_cmpstr(info->format, ==, "raw");
    g_assert_cmpuint(info->bitmaps->len, ==, 0);
    g_assert_no_errno(stat("d.raw", &st));
    g_assert_cmpint(info->mtime.tv_sec, ==, st.st_mtim.tv_sec);
    g_assert_cmpint(info->mtime.tv_nsec, ==, st.st_mtim.tv_nsec);
    g_assert_cmpint(info->ctime.tv_nsec, ==, st.st_ctim.tv_nsec);
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
    g_autoptr(FlServer) server = NULL;
    g_autoptr(GString) seen = g_string_new(NULL);
    const FlBitmapInfo *bitmap;
    struct nbd_handle *nbd;

    run("qemu-img create -q -f qcow2 d.qcow2 1M; qemu-img bitmap --add d.qcow2 b0;"
        "qemu-io -c 'write -P 9 64k 64k' d.qcow2;"
        "qemu-img bitmap --add -g 512 d.qcow2 'a b/c'; qemu-img bitmap --disable d.qcow2 b0");
    server = serve("d.qcow2");
    g_assert_cmpstr(fl_server_image(server)->format, ==, "qcow2");
    g_assert_cmpuint(fl_server_image(server)->bitmaps->len, ==, 2);
    bitmap = fl_server_image(server)->bitmaps->pdata[0];
    g_assert_cmpstr(bitmap->name, ==, "a b/c");
    g_assert_cmpuint(bitmap->granularity, ==, 512);
    g_assert_false(bitmap->inconsistent);
    bitmap = fl_server_image(server)->bitmaps->pdata[1];
    g_assert_cmpstr(bitmap->name, ==, "b0");
    g_assert_cmpuint(bitmap->granularity, ==, 65536);

    nbd = connect_to(server, "d", contexts);
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
    g_autoptr(FlServer) server = NULL;
    const FlBitmapInfo *bitmap;
    struct nbd_handle *nbd;

    run("qemu-img create -q -f qcow2 d.qcow2 1M; qemu-img bitmap --add d.qcow2 lost;"
        "mkfifo in; qemu-io d.qcow2 < in > out & exec 3> in; printf 'write 0 64k\\n' >&3;"
        "while ! grep -q wrote out; do :; done; kill -9 $!; wait $! || true;"
        "qemu-img bitmap --add d.qcow2 late");
    server = serve("d.qcow2");
    g_assert_cmpuint(fl_server_image(server)->bitmaps->len, ==, 2);
    bitmap = fl_server_image(server)->bitmaps->pdata[0];
    g_assert_cmpstr(bitmap->name, ==, "late");
    g_assert_false(bitmap->inconsistent);
    bitmap = fl_server_image(server)->bitmaps->pdata[1];
    g_assert_cmpstr(bitmap->name, ==, "lost");
    g_assert_true(bitmap->inconsistent);

    nbd = connect_to(server, "d", contexts);
    g_assert_cmpint(nbd_can_meta_context(nbd, contexts[0]), ==, 0);
    g_assert_cmpint(nbd_can_meta_context(nbd, contexts[1]), ==, 1);
    nbd_close(nbd);
}

static void test_chain(Fixture *fixture, gconstpointer data)
{
    static const char *const contexts[] = {"qemu:allocation-depth", "qemu:dirty-bitmap:low", NULL};
    g_autoptr(FlServer) server = NULL;
    g_autoptr(GString) seen = g_string_new(NULL);
    struct nbd_handle *nbd;

    run("mkdir sub; cd sub; qemu-img create -q -f raw base.raw 1M;"
        "qemu-io -f raw -c 'write -P 1 0 1M' base.raw;"
        "qemu-img create -q -f qcow2 -b base.raw -F raw mid.qcow2;"
        "qemu-img bitmap --add mid.qcow2 low; qemu-io -c 'write -P 2 64k 64k' mid.qcow2;"
        "qemu-img create -q -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2;"
        "qemu-io -c 'write -P 3 128k 64k' top.qcow2; ln -s sub/top.qcow2 ../linked.x.qcow2 || true;"
        "cd ..; ln -s $PWD/sub/top.qcow2 sub/link.qcow2");
    server = serve("sub/../sub/top.qcow2");
    g_assert_cmpuint(fl_server_image(server)->bitmaps->len, ==, 0);
    nbd = connect_to(server, "top", contexts);
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
    g_autoptr(FlServer) server = NULL;
    struct nbd_handle *nbd;

    run("qemu-img create -q -f qcow2 -o data_file=d.raw,data_file_raw=on d.qcow2 1M;"
        "qemu-img bitmap --add d.qcow2 b; qemu-io -c 'write -P 5 0 64k' d.qcow2");
    server = serve("d.qcow2");
    nbd = connect_to(server, "d", NULL);
    assert_byte(nbd, 100, 5);
    nbd_close(nbd);
    g_assert_cmpuint(fl_server_image(server)->bitmaps->len, ==, 1);
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
        g_autoptr(FlServer) server = NULL;

        run(command);
        assert_serves(path, 16 * MIB, MIB, 6);
        server = serve(path);
        g_assert_cmpstr(fl_server_image(server)->format, ==, formats[i]);
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
        g_autoptr(FlServer) server = NULL;

        g_assert_no_errno(link("model", cases[i].path));
        server = serve(cases[i].path);
        g_assert_cmpstr(fl_server_image(server)->name, ==, cases[i].name);
        g_assert_cmpstr(fl_server_image(server)->format, ==, "qcow2");
        nbd_close(connect_to(server, cases[i].name, NULL));
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
        "qemu-img create -q -f luks --object secret,id=s,data=x -o key-secret=s,iter-time=10 "
        "luks.img 1M; ln -s nowhere dangling; : > secret; chmod 0 secret");
    assert_refused("absent", "No such file");
    assert_refused("absent", absent);
    assert_refused("dangling", "No such file");
    assert_refused("dir", "it is a folder");
    assert_refused("fifo", "neither a file nor a block device");
    assert_refused("/dev/null", "neither a file nor a block device");
    assert_refused("empty", "size 0");
    assert_refused("zero.qcow2", "size 0");
    assert_refused("broken.qcow2", "broken.qcow2");
    assert_refused("luks.img", "it is encrypted");
    if (geteuid() != 0)
        assert_refused("secret", "Permission denied");
}

/* Somebody writes to the image, or to what it is based on. */
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

/* While it is served it stays as it is: others may read it, nobody may write. */
static void test_shared(Fixture *fixture, gconstpointer data)
{
    g_autoptr(FlServer) first = NULL, second = NULL, over = NULL;

    run("qemu-img create -q -f raw d.raw 1M; qemu-img create -q -f qcow2 -b d.raw -F raw d.qcow2;"
        "qemu-img bitmap --add d.qcow2 b");
    run("sleep 0.02; md5sum d.raw d.qcow2 > sums; stat -c '%y %z' d.raw d.qcow2 > times");
    first = serve("d.raw");
    second = serve("d.raw");
    over = serve("d.qcow2");
    run("! qemu-io -f raw -c 'write 0 512' d.raw; ! qemu-io -f qcow2 -c 'write 0 512' d.qcow2;"
        "qemu-io -r -f raw -c 'read 0 512' d.raw");
    g_clear_pointer(&first, fl_server_free);
    run("! qemu-io -f raw -c 'write 0 512' d.raw");
    g_clear_pointer(&second, fl_server_free);
    run("! qemu-io -f raw -c 'write 0 512' d.raw");
    g_clear_pointer(&over, fl_server_free);
    run("md5sum -c --quiet sums; stat -c '%y %z' d.raw d.qcow2 | cmp - times;"
        "qemu-io -f raw -c 'write 0 512' d.raw");
}

/* More connections than one mount opens. */
static void test_many_connections(Fixture *fixture, gconstpointer data)
{
    g_autoptr(FlServer) server = NULL;
    struct nbd_handle *nbd[120];

    run("qemu-img create -q -f raw d.raw 1M");
    server = serve("d.raw");
    for (size_t i = 0; i < G_N_ELEMENTS(nbd); i++)
        nbd[i] = connect_to(server, "d", NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(nbd); i++) {
        assert_byte(nbd[i], i, 0);
        nbd_close(nbd[i]);
    }
}

static void test_command(Fixture *fixture, gconstpointer data)
{
    static const char *const argv[] = {"nbdkit", "-f", "memory", "1M", NULL};
    g_autoptr(GError) error = NULL;
    g_autoptr(FlServer) server = fl_server_new_command(argv, &error);
    struct nbd_handle *nbd;

    g_assert_no_error(error);
    g_assert_null(fl_server_image(server));
    nbd = connect_to(server, "", NULL);
    g_assert_cmpint(nbd_get_size(nbd), ==, MIB);
    assert_byte(nbd, 0, 0);
    nbd_close(nbd);
    nbd_close(connect_to(server, "", NULL));
}

/* A server sees the socket, its standard descriptors, and nothing else of ours. */
static void test_inherited(Fixture *fixture, gconstpointer data)
{
    static const char *const argv[] = {
        "/bin/sh", "-c",
        "ls -l /proc/$$/fd > fds; echo $LISTEN_FDS $(($LISTEN_PID - $$)) \"$LISTEN_FDNAMES\" > env;"
        "ps -o sid= -o pid= -p $$ > session; readlink /proc/$$/fd/0 > stdin;"
        /* Builtins only: a shell blocks signals while it starts a program. */
        "while read key value; do case $key in SigBlk:|SigIgn:) echo $value;; esac; done"
        "    < /proc/$$/status > signals;"
        "exec nbdkit -f null",
        NULL};
    g_autoptr(GError) error = NULL;
    g_autoptr(FlServer) server = NULL;
    int leaked = open("leaked", O_RDWR | O_CREAT, 0600);
    sigset_t all, old;

    g_setenv("LISTEN_FDNAMES", "ours", TRUE);
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &old);
    signal(SIGPIPE, SIG_IGN);
    server = fl_server_new_command(argv, &error);
    g_assert_no_error(error);
    nbd_close(connect_to(server, "", NULL));
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    g_unsetenv("LISTEN_FDNAMES");
    close(leaked);

    run("grep -q ' 3 -> socket' fds; test $(grep -c socket fds) = 1; ! grep leaked fds");
    run("test \"$(cat env)\" = '1 0 '");
    run("read sid pid < session; test $sid = $pid; test $(cat stdin) = /dev/null");
    run("test \"$(echo $(cat signals))\" = '0000000000000000 0000000000000000'");
}

static void test_command_fails(Fixture *fixture, gconstpointer data)
{
    static const char *const absent[] = {"fleecefs-no-such-command", NULL};
    static const char *const folder[] = {"/tmp", NULL};
    static const char *const empty[] = {NULL};
    static const char *const ends[] = {
        "sh", "-c", "echo 'sh: warning: strange' >&2; echo >&2; echo 'sh: no disk' >&2; exit 7",
        NULL};
    static const char *const killed[] = {"sh", "-c", "kill -9 $$", NULL};
    g_autoptr(GError) error = NULL;
    FlServer *server;

    g_assert_null(fl_server_new_command(absent, &error));
    assert_error_has(error, "cannot run fleecefs-no-such-command: there is no such program");
    g_clear_error(&error);
    g_assert_null(fl_server_new_command(folder, &error));
    assert_error_has(error, "cannot run /tmp: ");
    g_clear_error(&error);
    g_assert_null(fl_server_new_command(empty, &error));
    g_assert_error(error, FL_ERROR, FL_ERROR_USAGE);
    g_clear_error(&error);

    server = fl_server_new_command(ends, &error);
    g_assert_no_error(error);
    while (fl_server_check(server, &error))
        ;
    g_assert_cmpstr(error->message, ==, "sh ended with status 7: sh: no disk");
    g_clear_error(&error);
    g_assert_false(fl_server_check(server, NULL));
    fl_server_free(server);

    server = fl_server_new_command(killed, &error);
    g_assert_no_error(error);
    while (fl_server_check(server, &error))
        ;
    g_assert_cmpstr(error->message, ==, "sh was killed by signal 9");
    fl_server_free(server);
}

static int open_pidfd(pid_t pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

static void await_end(int pidfd)
{
    struct pollfd fd = {.fd = pidfd, .events = POLLIN};

    g_assert_cmpint(poll(&fd, 1, 30000), ==, 1);
    close(pidfd);
}

static pid_t read_pid(const char *file)
{
    g_autofree char *text = NULL;

    while (!g_file_get_contents(file, &text, NULL, NULL) || strchr(text, '\n') == NULL)
        g_clear_pointer(&text, g_free);
    return (pid_t)atoi(text);
}

/* A server that is deaf, with a child, both of which write more than a pipe holds. */
static void test_stubborn_command(Fixture *fixture, gconstpointer data)
{
    static const char *const argv[] = {"sh", "-c",
                                       "trap '' TERM; sleep 1000 & echo $! > child;"
                                       "yes | head -c 1000000 >&2; echo done > wrote;"
                                       "while :; do sleep 1000; done",
                                       NULL};
    g_autoptr(GError) error = NULL;
    FlServer *server = fl_server_new_command(argv, &error);
    int child;

    g_assert_no_error(error);
    run("while ! test -s wrote; do sleep 0.01; done");
    child = open_pidfd(read_pid("child"));
    g_assert_true(fl_server_check(server, NULL));
    fl_server_free(server);
    await_end(child);
}

/* Whoever holds the pipe open must not hold us up. */
static void test_escaped_child(Fixture *fixture, gconstpointer data)
{
    static const char *const argv[] = {"sh", "-c",
                                       "setsid sh -c 'echo $$ > child; exec sleep 1000' &"
                                       "while ! test -s child; do :; done; exit 3",
                                       NULL};
    g_autoptr(GError) error = NULL;
    FlServer *server = fl_server_new_command(argv, &error);

    g_assert_no_error(error);
    while (fl_server_check(server, &error))
        ;
    g_assert_cmpstr(error->message, ==, "sh ended with status 3");
    fl_server_free(server);
    kill(read_pid("child"), SIGKILL);
}

/* The parent is killed: the kernel ends the server. */
static void test_killed_parent(Fixture *fixture, gconstpointer data)
{
    static const char *const argv[] = {"nbdkit", "-f", "null", NULL};

    run("qemu-img create -q -f qcow2 d.qcow2 1M");
    for (int i = 0; i < 2; i++) {
        int channel[2], pidfd;
        pid_t parent, server_pid;

        g_assert_no_errno(pipe(channel));
        parent = fork();
        if (parent == 0) {
            FlServer *server =
                i == 0 ? fl_server_new_image("d.qcow2", NULL, NULL) : fl_server_new_command(argv, NULL);
            server_pid = server != NULL ? fl_server_pid(server) : -1;
            if (write(channel[1], &server_pid, sizeof server_pid) < 0)
                _exit(1);
            for (;;)
                pause();
        }
        g_assert_cmpint(read(channel[0], &server_pid, sizeof server_pid), ==, sizeof server_pid);
        g_assert_cmpint(server_pid, >, 0);
        pidfd = open_pidfd(server_pid);
        g_assert_cmpint(pidfd, >=, 0);
        kill(parent, SIGKILL);
        waitpid(parent, NULL, 0);
        await_end(pidfd);
        close(channel[0]);
        close(channel[1]);
    }
}

/* The storage daemon dies under a mount: a connection ends, and the reason can be had. */
static void test_daemon_dies(Fixture *fixture, gconstpointer data)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(FlServer) server = NULL;
    struct nbd_handle *nbd;
    char byte;

    run("qemu-img create -q -f raw d.raw 1M");
    server = serve("d.raw");
    g_assert_true(fl_server_check(server, &error));
    nbd = connect_to(server, "d", NULL);
    kill(fl_server_pid(server), SIGKILL);
    g_assert_cmpint(nbd_pread(nbd, &byte, 1, 0, 0), ==, -1);
    nbd_close(nbd);
    while (fl_server_check(server, &error))
        ;
    assert_error_has(error, "qemu-storage-daemon was killed by signal 9");
}

static void test_no_qemu(Fixture *fixture, gconstpointer data)
{
    g_autofree char *path = g_strdup(g_getenv("PATH"));
    g_autofree char *empty = NULL;

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
    static const struct {
        const char *path;
        void (*test)(Fixture *fixture, gconstpointer data);
    } tests[] = {
        {"/server/image/raw", test_raw},
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
        {"/server/command/nbdkit", test_command},
        {"/server/command/inherited", test_inherited},
        {"/server/command/fails", test_command_fails},
        {"/server/command/stubborn", test_stubborn_command},
        {"/server/command/escaped-child", test_escaped_child},
        {"/server/killed-parent", test_killed_parent},
    };
    static const char *const needed[] = {"qemu-storage-daemon", "qemu-img", "qemu-io", "nbdkit"};
    g_autofree char *base = NULL, *deep = NULL, *runtime = NULL;
    int result;

    g_test_init(&argc, &argv, NULL);
    for (size_t i = 0; i < G_N_ELEMENTS(needed); i++) {
        g_autofree char *program = g_find_program_in_path(needed[i]);
        if (program == NULL)
            return 77;
    }

    /* Sockets go to a folder of our own, so that it shows if one stays; longer than sun_path. */
    base = g_dir_make_tmp("fleecefs-test-XXXXXX", NULL);
    deep = g_strnfill(120, 'r');
    runtime = g_build_filename(base, deep, NULL);
    g_assert_no_errno(g_mkdir(runtime, 0700));
    g_setenv("XDG_RUNTIME_DIR", runtime, TRUE);
    for (size_t i = 0; i < G_N_ELEMENTS(tests); i++)
        g_test_add(tests[i].path, Fixture, NULL, set_up, tests[i].test, tear_down);
    result = g_test_run();
    g_rmdir(runtime);
    g_rmdir(base);
    return result;
}
