/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reads that are held until the VM confirms that its snapshot is intact. */
#include "confirm.h"

#include <errno.h>

#define READS 4

typedef struct {
    FlRead read; /* first */
    bool done;
    errint_t result;
} Held;

typedef struct {
    uint64_t questions;
    bool whole;
} Vm;

static uint64_t ask(void *vm)
{
    return ++((Vm *)vm)->questions;
}

static bool is_whole(void *vm)
{
    return ((Vm *)vm)->whole;
}

static FlConfirm *new_confirm(Vm *vm, unsigned timeout)
{
    return fl_confirm_new(&(FlDiskConfirmOps){.is_whole = is_whole, .ask = ask, .opaque = vm},
                          timeout);
}

static void read_done(FlRead *read, errint_t result)
{
    Held *held = (Held *)read;

    g_assert_false(held->done);
    held->done = true;
    held->result = result;
}

static void hold(FlConfirm *confirm, Held *held)
{
    *held = (Held){.read = {.done = read_done}};
    fl_confirm_hold(confirm, &held->read);
    g_assert_false(held->done);
}

static void test_order(void)
{
    Vm vm = {0};
    FlConfirm *confirm = new_confirm(&vm, 30);
    Held held[READS];

    for (unsigned i = 0; i < READS; i++)
        hold(confirm, &held[i]);
    g_assert_cmpuint(vm.questions, ==, READS);

    /* An answer covers the reads that arrived before its request, not later ones. */
    fl_confirm_end(confirm, 2, 0);
    g_assert_true(held[0].done && held[0].result == 0 && held[1].done && held[1].result == 0);
    g_assert_false(held[2].done || held[3].done);
    /* Repeated or late answers are ignored. */
    fl_confirm_end(confirm, 2, -EIO);
    fl_confirm_end(confirm, 1, -EIO);
    g_assert_false(held[2].done || held[3].done);
    fl_confirm_end(confirm, 9, -EIO);
    g_assert_true(held[2].done && held[2].result == -EIO && held[3].done);
    fl_confirm_free(confirm);
}

static void query_done(errint_t result, void *opaque)
{
    *(errint_t *)opaque = result;
}

/* A query waits in the same order as reads. */
static void test_query(void)
{
    Vm vm = {0};
    FlConfirm *confirm = new_confirm(&vm, 30);
    GQueue left = G_QUEUE_INIT;
    errint_t results[3] = {1, 1, 1};
    FlRead *given_up;
    Held held;

    fl_confirm_query(confirm, query_done, &results[0]);
    hold(confirm, &held);
    fl_confirm_query(confirm, query_done, &results[1]);
    fl_confirm_end(confirm, 1, 0);
    g_assert_cmpint(results[0], ==, 0);
    g_assert_false(held.done);
    fl_confirm_end(confirm, 3, -EIO);
    g_assert_true(held.done);
    g_assert_cmpint(results[1], ==, -EIO);
    /* It is completed as the reads are that were given up. */
    fl_confirm_query(confirm, query_done, &results[2]);
    fl_confirm_give_up(confirm, &left);
    given_up = g_queue_pop_head_link(&left)->data;
    given_up->done(given_up, -EIO);
    g_assert_cmpint(results[2], ==, -EIO);
    fl_confirm_free(confirm);
}

/* The owner may retry the reads elsewhere. */
static void test_give_up(void)
{
    Vm vm = {0};
    FlConfirm *confirm = new_confirm(&vm, 30);
    GQueue left = G_QUEUE_INIT;
    Held held[READS];

    for (unsigned i = 0; i < READS; i++)
        hold(confirm, &held[i]);
    fl_confirm_end(confirm, 1, 0);
    fl_confirm_give_up(confirm, &left);
    g_assert_cmpuint(left.length, ==, READS - 1);
    g_assert_true(left.head->data == &held[1].read && left.tail->data == &held[READS - 1].read);
    fl_confirm_end(confirm, 9, 0);
    g_assert_false(held[1].done);
    fl_confirm_free(confirm);
}

/* Without an answer, held reads fail on timeout, here immediately. */
static void test_expiry(void)
{
    Vm vm = {0};
    FlConfirm *confirm = new_confirm(&vm, 0);
    Held held[2];

    hold(confirm, &held[0]);
    hold(confirm, &held[1]);
    while (!held[1].done)
        g_main_context_iteration(NULL, TRUE);
    g_assert_true(held[0].done);
    g_assert_cmpint(held[0].result, ==, -EIO);
    g_assert_cmpint(held[1].result, ==, -EIO);
    fl_confirm_free(confirm);
}

/* If the state is known already, no request is sent. */
static void test_known(void)
{
    Vm vm = {.whole = true};
    FlConfirm *confirm = new_confirm(&vm, 30);

    g_assert_false(fl_confirm_is_needed(confirm));
    vm.whole = false;
    g_assert_true(fl_confirm_is_needed(confirm));
    g_assert_false(fl_confirm_is_needed(NULL));
    g_assert_cmpuint(vm.questions, ==, 0);
    fl_confirm_free(confirm);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/confirm/order", test_order);
    g_test_add_func("/confirm/query", test_query);
    g_test_add_func("/confirm/give-up", test_give_up);
    g_test_add_func("/confirm/expiry", test_expiry);
    g_test_add_func("/confirm/known", test_known);
    return g_test_run();
}
