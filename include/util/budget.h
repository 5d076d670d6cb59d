/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Bytes of memory that peers may make us use for good: one number for all sources of a mount, since
 * each of them may be hostile. Any thread; counted.
 */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct FlBudget FlBudget;

FlBudget *fl_budget_new(uint64_t bytes);
FlBudget *fl_budget_ref(FlBudget *budget);
void fl_budget_unref(FlBudget *budget); /* NULL is fine */
G_DEFINE_AUTOPTR_CLEANUP_FUNC(FlBudget, fl_budget_unref)

/* Takes BYTES; false, and takes nothing, if more than MOST or all that there is would be taken
 * then. */
bool fl_budget_take(FlBudget *budget, uint64_t bytes, uint64_t most);
void fl_budget_give_back(FlBudget *budget, uint64_t bytes);
