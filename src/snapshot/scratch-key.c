/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "snapshot/scratch-key.h"

#include "source/process.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#define KEY_BYTES      32
#define CREATE_SECONDS 60
/* Maximum number of attempts to format an image: about 3 % fail where the kernel counts CPU time in
 * ticks. */
#define ATTEMPTS 10

char *fl_scratch_key_new(GError **error)
{
    uint8_t bytes[KEY_BYTES];
    char *key = NULL;

    if (getrandom(bytes, sizeof bytes, 0) == (ssize_t)sizeof bytes)
        key = g_base64_encode(bytes, sizeof bytes);
    else
        fl_fail(error, "cannot create a random key: %s", g_strerror(errno));
    explicit_bzero(bytes, sizeof bytes);
    return key;
}

void fl_scratch_key_free(char *key)
{
    if (key != NULL)
        explicit_bzero(key, strlen(key));
    g_free(key);
}

/* qemu-img measures how fast the CPU derives keys; it fails if its CPU time seems to stand still.
 */
static char *format(const char *const *argv, GError **error)
{
    char *output = NULL;

    for (unsigned i = 1; output == NULL; i++) {
        g_autoptr(GError) failure = NULL;

        output = fl_process_output(argv, NULL, CREATE_SECONDS, &failure);
        if (output == NULL && (i == ATTEMPTS || strstr(failure->message, "CPU usage") == NULL)) {
            g_propagate_error(error, g_steal_pointer(&failure));
            break;
        }
    }
    return output;
}

bool fl_scratch_key_format(int fd, uint64_t size, const char *key, GError **error)
{
    int secret = memfd_create("secret", MFD_CLOEXEC);
    g_autofree char *object =
        g_strdup_printf("secret,id=key,file=/proc/%d/fd/%d", (int)getpid(), secret);
    g_autofree char *file = g_strdup_printf("/proc/%d/fd/%d", (int)getpid(), fd);
    g_autofree char *bytes = g_strdup_printf("%" G_GUINT64_FORMAT, size);
    /* The key is random: a longer derivation would not make it harder to guess. */
    const char *const argv[] = {
        "qemu-img", "create", "-q",
        "-f",       "qcow2",  "--object",
        object,     "-o",     "encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10",
        file,       bytes,    NULL};
    g_autofree char *output = NULL;

    if (secret < 0 || write(secret, key, strlen(key)) != (ssize_t)strlen(key))
        fl_fail(error, "%s", g_strerror(errno));
    else
        output = format(argv, error);
    if (secret >= 0)
        close(secret);
    return output != NULL;
}
