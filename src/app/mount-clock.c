/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "app/mount-clock.h"

#include "snapshot/journal.h"
#include "util/name.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#define NAME "mounts-clock"
/* If the clock was set back by this many seconds or more, follow it. */
#define CLOCK_STEP 3600
/* Bytes of the file. */
#define TEXT_MAX 65536
/* How long to wait for another process, which may be stopped. */
#define LOCK_TRIES 100
#define LOCK_USEC  10000

/* Opens the file and locks it; -1 if that is impossible. */
static int open_file(void)
{
    g_autofree char *directory = fl_state_directory(NULL);
    g_autofree char *path = directory != NULL ? g_build_filename(directory, NAME, NULL) : NULL;
    int fd = path != NULL ? open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600) : -1;

    for (int i = 0; fd >= 0 && i < LOCK_TRIES; i++) {
        if (flock(fd, LOCK_EX | LOCK_NB) == 0)
            return fd;
        g_usleep(LOCK_USEC);
    }
    if (fd >= 0)
        close(fd);
    return -1;
}

/* Returns the second after that of KEY in TEXT, lines "KEY SECOND"; or NOW if that is later. Adds
 * the other lines that are still needed to KEPT. */
static gint64 next_second(const char *text, guint64 key, gint64 now, GString *kept)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    gint64 second = now;

    for (char **line = lines; *line != NULL; line++) {
        unsigned long long other;
        long long last;

        if (sscanf(*line, "%llx %lld", &other, &last) != 2 || last < now || last - now > CLOCK_STEP)
            continue;
        if (other == key)
            second = MAX(second, last + 1);
        else
            g_string_append_printf(kept, "%s\n", *line);
    }
    return second;
}

struct timespec fl_mount_clock_next(const char *source)
{
    gint64 us = g_get_real_time(), now = us / G_USEC_PER_SEC, second;
    struct timespec time = {.tv_sec = now, .tv_nsec = us % G_USEC_PER_SEC * 1000};
    guint64 key = fl_name_hash(source, NULL);
    g_autofree char *text = g_malloc0(TEXT_MAX + 1);
    g_autoptr(GString) kept = g_string_new(NULL);
    int fd = open_file();

    if (fd < 0 || pread(fd, text, TEXT_MAX, 0) < 0) {
        g_debug("cannot remember the time of this mount");
    } else {
        second = next_second(text, key, now, kept);
        if (second > now)
            time = (struct timespec){.tv_sec = second};
        g_string_append_printf(kept, "%016" G_GINT64_MODIFIER "x %" G_GINT64_FORMAT "\n", key,
                               second);
        if (pwrite(fd, kept->str, kept->len, 0) != (gssize)kept->len ||
            ftruncate(fd, (off_t)kept->len) != 0)
            g_debug("cannot remember the time of this mount");
    }
    if (fd >= 0)
        close(fd);
    return time;
}
