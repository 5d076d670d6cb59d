/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A source in memory, for tests of the layers above: byte N of its disk is memory_byte(N). It
 * answers in the next main loop iteration or, if held, on memory_answer().
 */
#pragma once

#include "disk/disk.h"

#include <errno.h>

typedef struct {
    FlSource source; /* first */
    uint64_t size;
    FlDiskMaps *maps; /* NULL: none */
    bool held;        /* reads wait for memory_answer() */
    GQueue reads;     /* of FlRead: waiting */
    GPtrArray *asked; /* of FlSpan: all reads, in order of arrival */
} Memory;

typedef struct {
    FlConn conn; /* first */
    Memory *memory;
    guint idle;
} MemoryConn;

static inline char memory_byte(uint64_t offset)
{
    return (char)(offset * 7 + offset / 4096);
}

static inline gboolean memory_tell(gpointer conn)
{
    ((MemoryConn *)conn)->idle = 0;
    fl_conn_tell(conn);
    return G_SOURCE_REMOVE;
}

static inline void memory_wake(FlConn *conn)
{
    MemoryConn *memory = (MemoryConn *)conn;

    if (memory->idle == 0)
        memory->idle = g_idle_add(memory_tell, conn);
}

static inline void memory_fill(FlRead *read)
{
    for (size_t i = 0; i < read->length; i++)
        ((char *)read->buf)[i] = memory_byte(read->offset + i);
}

static inline void memory_start(FlConn *conn)
{
}

static inline void memory_read(FlConn *conn, FlRead *read)
{
    Memory *memory = ((MemoryConn *)conn)->memory;

    g_ptr_array_add(memory->asked, g_memdup2(&(FlSpan){read->offset, read->offset + read->length},
                                             sizeof(FlSpan)));
    if (memory->held) {
        g_queue_push_tail(&memory->reads, read);
        return;
    }
    memory_fill(read);
    fl_conn_answer(conn, read, 0);
}

static inline bool memory_settle(FlConn *conn, FlRead *read)
{
    g_queue_remove(&((MemoryConn *)conn)->memory->reads, read);
    return true;
}

static inline const char *memory_fault(const FlConn *conn)
{
    return NULL;
}

static inline void memory_close(FlConn *conn)
{
    MemoryConn *memory = (MemoryConn *)conn;

    g_clear_handle_id(&memory->idle, g_source_remove);
}

static inline bool memory_verify(FlConn *conn, const FlDiskMaps *maps, const FlWait *wait,
                                 GError **error)
{
    return true;
}

static inline bool memory_peek(FlConn *conn, const FlSpan *spans, unsigned n, void **bytes,
                               const FlWait *wait, GError **error)
{
    for (unsigned i = 0; i < n; i++) {
        FlRead read = {.length = (size_t)(spans[i].end - spans[i].start), .offset = spans[i].start};

        read.buf = bytes[i] = read.length > 0 ? g_malloc(read.length) : NULL;
        memory_fill(&read);
    }
    return true;
}

static inline FlConn *memory_open(FlSource *source, const FlExportInfo *info,
                                  const char *const *contexts, const FlWait *wait, GError **error)
{
    static const FlConnOps ops = {
        .verify = memory_verify,
        .peek = memory_peek,
        .start = memory_start,
        .read = memory_read,
        .settle = memory_settle,
        .fault = memory_fault,
        .wake = memory_wake,
        .close = memory_close,
    };
    FlConn *conn = fl_conn_alloc(sizeof(MemoryConn), &ops);

    ((MemoryConn *)conn)->memory = (Memory *)source;
    return conn;
}

static inline FlDiskMaps *memory_load(FlSource *source, const FlExportInfo *info,
                                      const FlWait *wait, GError **error)
{
    Memory *memory = (Memory *)source;

    return memory->maps != NULL ? fl_disk_maps_ref(memory->maps) : fl_disk_maps_new();
}

static inline void memory_clear(FlSource *source)
{
    Memory *memory = (Memory *)source;

    fl_disk_maps_unref(memory->maps);
    g_queue_clear(&memory->reads);
    g_ptr_array_unref(memory->asked);
}

static inline Memory *memory_new(uint64_t size)
{
    static const FlSourceOps ops = {
        .open = memory_open, .load = memory_load, .clear = memory_clear};
    Memory *memory = (Memory *)fl_source_alloc(sizeof(Memory), &ops, "memory", NULL);

    memory->size = size;
    memory->asked = g_ptr_array_new_with_free_func(g_free);
    return memory;
}

/* A disk of MEMORY that has the contexts of its maps. */
static inline FlDisk *memory_disk(Memory *memory)
{
    g_autoptr(FlWorkers) workers = fl_workers_new(NULL);
    FlDiskOptions options = {.workers = workers, .connections = 1, .timeout = 30};
    FlExportInfo *info = fl_export_info_new("memory", memory->size);

    for (guint i = 0; memory->maps != NULL && i < memory->maps->contexts->len; i++)
        g_ptr_array_add(info->contexts, g_strdup(memory->maps->contexts->pdata[i]));
    return fl_disk_new(&memory->source, info, &options);
}

/* Answers the oldest waiting read. */
static inline void memory_answer(Memory *memory, int error)
{
    FlRead *read = g_queue_pop_head(&memory->reads);

    if (error == 0)
        memory_fill(read);
    fl_conn_answer(read->conn, read, error);
    memory_wake(read->conn);
}

static inline const FlSpan *memory_asked(const Memory *memory, guint i)
{
    g_assert_cmpuint(i, <, memory->asked->len);
    return memory->asked->pdata[i];
}

/* Runs the main loop until CONDITION becomes true. */
#define run_until(condition)                                                                       \
    do {                                                                                           \
        while (!(condition))                                                                       \
            g_main_context_iteration(NULL, TRUE);                                                  \
    } while (0)

static inline void memory_close_disk(FlDisk *disk)
{
    fl_disk_close(disk, g_get_monotonic_time() + 10 * G_USEC_PER_SEC);
    while (g_main_context_iteration(NULL, FALSE))
        continue;
    fl_disk_unref(disk);
}
