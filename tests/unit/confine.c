/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a confined process can still do; each probe runs in a separate process. */
#include "util/confine.h"

#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <glib.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define MEMORY (UINT64_C(1) << 30)

/* Runs PROBE, whose assertions are the test, confined, with the descriptor of a 3-byte file. */
static void confined(void (*probe)(int fd))
{
    g_autofree char *path = NULL;
    int fd = g_file_open_tmp("fleecefs-test-XXXXXX", &path, NULL), status;
    pid_t child;

    g_assert_cmpint(write(fd, "abc", 3), ==, 3);
    child = fork();
    if (child == 0) {
        g_autoptr(GError) error = NULL;

        g_assert_true(fl_confine(MEMORY, &error));
        probe(fd);
        _exit(0);
    }
    g_assert_cmpint(waitpid(child, &status, 0), ==, child);
    g_assert_cmpint(status, ==, 0);
    close(fd);
    unlink(path);
}

static void probe_needs(int fd)
{
    char buf[3];
    void *memory = malloc(100 << 20);

    g_assert_nonnull(memory);
    memset(memory, 1, 100 << 20);
    free(memory);
    g_assert_cmpint(pread(fd, buf, 3, 0), ==, 3);
    g_assert_cmpint(memcmp(buf, "abc", 3), ==, 0);
    g_assert_cmpint(lseek(fd, 0, SEEK_END), ==, 3);
}

static void test_needs(void)
{
    confined(probe_needs);
}

static void probe_user(int fd)
{
    g_assert_cmpint(geteuid(), !=, 0);
    g_assert_cmpint(setresuid(0, 0, 0), !=, 0);
}

static void test_user(void)
{
    confined(probe_user);
}

#ifndef SANITIZED
static void probe_rest(int fd)
{
    int own = getpid();

    g_assert_cmpint(open("/etc/passwd", O_RDONLY), ==, -1);
    g_assert_cmpint(open("/dev/null", O_RDWR), ==, -1);
    g_assert_cmpint(open("/proc/self/mem", O_RDWR), ==, -1);
    g_assert_cmpint(socket(AF_UNIX, SOCK_STREAM, 0), ==, -1);
    g_assert_cmpint(socket(AF_INET, SOCK_STREAM, 0), ==, -1);
    g_assert_cmpint(unlink("/tmp/fleecefs-test"), ==, -1);
    g_assert_cmpint(fork(), ==, -1);
    g_assert_cmpint(execl("/bin/true", "true", NULL), ==, -1);
    g_assert_cmpint(kill(own, 0), ==, -1);
    g_assert_cmpint(kill(1, 0), ==, -1);
    g_assert_true(mmap(NULL, MEMORY * 2, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                       0) == MAP_FAILED);
    g_assert_cmpint(ftruncate(fd, 0), ==, -1);
}

static void test_rest(void)
{
    confined(probe_rest);
}
#endif

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/confine/needs", test_needs);
    g_test_add_func("/confine/user", test_user);
#ifndef SANITIZED
    g_test_add_func("/confine/rest", test_rest);
#endif
    return g_test_run();
}
