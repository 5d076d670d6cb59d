/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * .fleecefs/metrics: the figures of status.json in the OpenMetrics text format, version 1.0
 * (https://github.com/OpenObservability/OpenMetrics). Belongs to the loop.
 */
#pragma once

#include "mount/status.h"

/* Adds the file to STATUS->tree; STATUS outlives it. */
void fl_metrics_add(FlStatus *status);
