/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "snapshot/libvirt/options.h"

#include "snapshot/libvirt/listen.h"

const FlSourceOption fl_libvirt_options[] = {
    {"since", "CHECKPOINT", "libvirt: changes since this checkpoint"},
    {"nbd_tls", "DIR", "libvirt: certificates for NBD over TLS"},
    {"nbd_listen", "ADDRESS[:PORTS]", "libvirt: where its NBD server listens", fl_listen_check},
    {0},
};
