/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The options of libvirt: sources. Builds without libvirt have them too, so that the error is about
 * missing libvirt support and not an unknown option. */
#pragma once

#include "source/kind.h"

extern const FlSourceOption fl_libvirt_options[]; /* terminated by one without a name */
