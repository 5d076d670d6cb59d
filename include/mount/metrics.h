/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * .fleecefs/metrics: the values of status.json in the OpenMetrics text format, version 1.0
 * (https://github.com/OpenObservability/OpenMetrics). Call from the loop only.
 */
#pragma once

#include "mount/status.h"

/* Adds the file to STATUS->tree; STATUS must outlive it. */
void fl_metrics_add(FlStatus *status);
