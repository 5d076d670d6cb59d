/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/fence.h"

#include <glib.h>
#include <linux/capability.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifdef __has_feature
#if __has_feature(address_sanitizer)
#define SANITIZED
#endif
#endif

#define BIT(capability) (UINT64_C(1) << (capability))

/* To mount and unmount; to reach images and sockets of QEMU's user, and make files that it may use;
 * to end a server that has another user. */
#define NEEDED                                                                                     \
    (BIT(CAP_SYS_ADMIN) | BIT(CAP_DAC_OVERRIDE) | BIT(CAP_DAC_READ_SEARCH) | BIT(CAP_CHOWN) |      \
     BIT(CAP_FOWNER) | BIT(CAP_KILL))

/* LeakSanitizer stops all threads to look at them, those too that were there before the fence. */
#if defined __SANITIZE_ADDRESS__ || defined SANITIZED
#define KEPT (NEEDED | BIT(CAP_SYS_PTRACE))
#else
#define KEPT NEEDED
#endif

typedef struct {
    struct __user_cap_header_struct header;
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3];
} Capabilities;

void fl_fence(void)
{
    Capabilities caps = {.header.version = _LINUX_CAPABILITY_VERSION_3};

    if (syscall(SYS_capget, &caps.header, caps.data) != 0)
        return;
    for (unsigned i = 0; i < G_N_ELEMENTS(caps.data); i++) {
        uint32_t kept = (uint32_t)(KEPT >> (32 * i));

        caps.data[i].permitted &= kept;
        caps.data[i].effective &= kept;
        caps.data[i].inheritable &= kept;
    }
    if (syscall(SYS_capset, &caps.header, caps.data) != 0)
        g_debug("cannot give up capabilities");
    if ((caps.data[0].effective & BIT(CAP_SYS_ADMIN)) &&
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        g_debug("cannot refuse new privileges");
}
