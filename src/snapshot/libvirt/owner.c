/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whether this host's QEMU has the images of a VM: a migration gives them to another's. libvirt
 * lets no migration begin while a backup goes on, but one may be there before and after. */
#include "snapshot/libvirt/session.h"

const char *fl_libvirt_disowned(int state, int reason)
{
    switch (state) {
    case VIR_DOMAIN_SHUTOFF:
        return reason == VIR_DOMAIN_SHUTOFF_MIGRATED
                   ? "the VM was migrated to another host: back it up there"
                   : NULL;
    case VIR_DOMAIN_RUNNING:
        return reason == VIR_DOMAIN_RUNNING_POSTCOPY || reason == VIR_DOMAIN_RUNNING_POSTCOPY_FAILED
                   ? "the VM is being migrated (post-copy): when that is over, back it up where it "
                     "runs then"
                   : NULL;
    case VIR_DOMAIN_PAUSED:
        break;
    default:
        return NULL;
    }
    switch (reason) {
    case VIR_DOMAIN_PAUSED_MIGRATION:
    case VIR_DOMAIN_PAUSED_POSTCOPY:
    case VIR_DOMAIN_PAUSED_POSTCOPY_FAILED:
        return "the VM is paused for a migration, and another QEMU may have its disks: when that "
               "is over, back it up where it runs then";
    case VIR_DOMAIN_PAUSED_SAVE:
        return "the VM is being saved: try again when that is over";
    case VIR_DOMAIN_PAUSED_STARTING_UP:
        return "the VM is only being started: try again when that is over";
    default:
        return NULL;
    }
}

/* Its value is 1 where there is an obstacle, its string. */
static bool ask_owner(FlLibvirtCall *call)
{
    int state = 0, reason = 0;
    bool ok = virDomainGetState(call->domain, &state, &reason, 0) == 0;

    call->string = g_strdup(ok ? fl_libvirt_disowned(state, reason) : NULL);
    return ok;
}

bool fl_libvirt_check_owner(FlLibvirtSession *session, bool jobs, GError **error)
{
    g_autoptr(FlLibvirtCall) call = fl_libvirt_call_new(ask_owner, NULL, NULL);
    uint64_t total;

    /* Who acts next tells of a libvirtd that does not answer, and of a VM that is gone. */
    if (!fl_libvirt_ask(session, call))
        return true;
    if (call->string != NULL)
        return fl_fail(error, "%s", call->string);
    if (jobs && fl_libvirt_progress(session, &total, NULL) == FL_LIBVIRT_PROGRESS_OTHER)
        return fl_fail(error,
                       "a job of libvirt (like a migration) is in progress; let it finish, see "
                       "virsh domjobinfo %s",
                       session->name);
    return true;
}
