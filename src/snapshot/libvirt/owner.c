/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whether this host's QEMU owns the images of a VM: a migration hands them to another QEMU. libvirt
 * starts no migration during a backup, but one may be in progress before and after. */
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
                   ? "the VM is being migrated (post-copy): after that, back it up on the host "
                     "where it runs"
                   : NULL;
    case VIR_DOMAIN_PAUSED:
        break;
    default:
        return NULL;
    }
    switch (reason) {
    case VIR_DOMAIN_PAUSED_MIGRATION:
        /* libvirt also says so of a VM that was saved while paused, and restored. */
        return "the VM is paused for a migration, and another QEMU may own its disks: after that, "
               "back it up on the host where it runs; if it was restored from a saved state, "
               "resume it first (virsh resume)";
    case VIR_DOMAIN_PAUSED_POSTCOPY:
    case VIR_DOMAIN_PAUSED_POSTCOPY_FAILED:
        return "the VM is paused for a migration, and another QEMU may own its disks: after that, "
               "back it up on the host where it runs";
    case VIR_DOMAIN_PAUSED_SAVE:
        return "the VM is being saved: try again afterwards";
    case VIR_DOMAIN_PAUSED_STARTING_UP:
        return "the VM is being started: try again afterwards";
    default:
        return NULL;
    }
}

/* CALL->string gets the obstacle; NULL if there is none. */
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

    /* The next action reports a libvirtd that does not answer, or a VM that is gone. */
    if (!fl_libvirt_ask(session, call))
        return true;
    if (call->string != NULL)
        return fl_fail(error, "%s", call->string);
    if (jobs && fl_libvirt_progress(session, &total, NULL) == FL_LIBVIRT_PROGRESS_OTHER)
        return fl_fail(error,
                       "a libvirt job (such as a migration) is in progress; let it finish; see "
                       "virsh domjobinfo %s",
                       session->name);
    return true;
}
