/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/budget.h"

struct FlBudget {
    gatomicrefcount refs;
    uint64_t bytes;
    uint64_t taken; /* atomic */
};

FlBudget *fl_budget_new(uint64_t bytes)
{
    FlBudget *budget = g_new0(FlBudget, 1);

    g_atomic_ref_count_init(&budget->refs);
    budget->bytes = bytes;
    return budget;
}

FlBudget *fl_budget_ref(FlBudget *budget)
{
    g_atomic_ref_count_inc(&budget->refs);
    return budget;
}

void fl_budget_unref(FlBudget *budget)
{
    if (budget != NULL && g_atomic_ref_count_dec(&budget->refs))
        g_free(budget);
}

bool fl_budget_take(FlBudget *budget, uint64_t bytes, uint64_t most)
{
    uint64_t taken = __atomic_load_n(&budget->taken, __ATOMIC_RELAXED);

    most = MIN(most, budget->bytes);
    do {
        if (taken > most || bytes > most - taken)
            return false;
    } while (!__atomic_compare_exchange_n(&budget->taken, &taken, taken + bytes, true,
                                          __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return true;
}

void fl_budget_give_back(FlBudget *budget, uint64_t bytes)
{
    __atomic_sub_fetch(&budget->taken, bytes, __ATOMIC_RELAXED);
}
