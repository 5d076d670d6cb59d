/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Limits the memory that peers can make us hold permanently: one limit shared by all sources of a
 * mount, since any of them may be hostile. Thread-safe; reference counted.
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

/* Takes BYTES. Returns false and takes nothing if the total taken would then exceed MOST or the
 * whole budget. */
bool fl_budget_take(FlBudget *budget, uint64_t bytes, uint64_t most);
void fl_budget_give_back(FlBudget *budget, uint64_t bytes);
