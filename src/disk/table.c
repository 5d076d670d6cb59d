/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "disk/table.h"

#include "contents.h"
#include "probe.h"

#define SMALL_SECTOR 512u
#define LARGE_SECTOR 4096u
/* The table is within this range. */
#define HEAD_BYTES (64u << 10)
/* Size of a link in the chain of logical partitions. */
#define LINK_BYTES 4096u
#define LINKS_MAX  64
/* More than GPT's default of 128 is hostile. */
#define PARTITIONS_MAX 128
#define FIRST_LOGICAL  5

struct FlTable {
    uint64_t size;
    uint32_t sector;
    bool complete;
    const char *kind;
    char *id;              /* of an MBR */
    GPtrArray *partitions; /* of FlPartition */
    GPtrArray *left_out;   /* of char * */
    /* The extended partition, [start, end), and the next link in its chain to read. */
    uint64_t extended_start, extended_end, link;
    unsigned links, logical; /* read so far */
    FlContents *contents;    /* NULL until the table is complete */
    FlContent content;       /* of the disk, if there is no table */
};

static void partition_clear(FlPartition *partition)
{
    g_free(partition->type);
    g_free(partition->uuid);
    g_free(partition->name);
    fl_content_clear(&partition->content);
}

static void partition_free(gpointer data)
{
    partition_clear(data);
    g_free(data);
}

static void entry_clear(gpointer data)
{
    partition_clear(&((FlTableEntry *)data)->partition);
}

FlTable *fl_table_new(uint64_t size, uint32_t sector)
{
    FlTable *table = g_new0(FlTable, 1);

    table->size = size;
    table->sector = sector;
    table->partitions = g_ptr_array_new_with_free_func(partition_free);
    table->left_out = g_ptr_array_new_with_free_func(g_free);
    table->complete = size < SMALL_SECTOR || !fl_probe_is_there();
    return table;
}

void fl_table_free(FlTable *table)
{
    if (table == NULL)
        return;
    g_ptr_array_unref(table->partitions);
    g_ptr_array_unref(table->left_out);
    fl_contents_free(table->contents);
    fl_content_clear(&table->content);
    g_free(table->id);
    g_free(table);
}

const char *fl_table_kind(const FlTable *table)
{
    return table->kind;
}

const GPtrArray *fl_table_partitions(const FlTable *table)
{
    return table->partitions;
}

const GPtrArray *fl_table_left_out(const FlTable *table)
{
    return table->left_out;
}

const FlContent *fl_table_content(const FlTable *table)
{
    return &table->content;
}

const GPtrArray *fl_table_volumes(const FlTable *table)
{
    return table->contents != NULL ? fl_contents_volumes(table->contents) : NULL;
}

const GPtrArray *fl_table_volumes_left_out(const FlTable *table)
{
    return table->contents != NULL ? fl_contents_left_out(table->contents) : NULL;
}

bool fl_table_wants(const FlTable *table, uint64_t *offset, size_t *length)
{
    if (table->complete)
        return table->contents != NULL && fl_contents_wants(table->contents, offset, length);
    *offset = table->link;
    *length = (size_t)MIN(table->size - table->link, table->kind == NULL ? HEAD_BYTES : LINK_BYTES);
    return true;
}

/* HEAD is the start of the disk, LENGTH bytes, for a disk without a table. */
static void begin_contents(FlTable *table, const void *head, size_t length)
{
    table->contents = fl_contents_new();
    for (guint i = 0; i < table->partitions->len; i++) {
        FlPartition *partition = table->partitions->pdata[i];
        fl_contents_add(table->contents, partition->start, partition->length, &partition->content);
    }
    if (table->kind == NULL)
        fl_contents_add_disk(table->contents, head, length, table->size, &table->content);
}

static void leave_out(FlTable *table, unsigned number, const char *why)
{
    g_ptr_array_add(table->left_out, g_strdup_printf("%u: %s", number, why));
}

/* Why a partition must be left out; NULL if it is valid. */
static const char *fault_of(const FlTable *table, const FlPartition *partition)
{
    uint64_t start = partition->start, length = partition->length;

    if (start == 0 || start >= table->size || length > table->size - start)
        return "extends beyond the disk";
    for (guint i = 0; i < table->partitions->len; i++) {
        const FlPartition *other = table->partitions->pdata[i];
        if (start < other->start + other->length && other->start < start + length)
            return "overlaps another";
    }
    return NULL;
}

/* Takes ownership of the strings in ENTRY. */
static void add_partition(FlTable *table, FlTableEntry *entry)
{
    FlPartition *partition = &entry->partition;
    const char *fault = fault_of(table, partition);

    if (fault != NULL) {
        leave_out(table, partition->number, fault);
    } else if (table->partitions->len == PARTITIONS_MAX) {
        leave_out(table, partition->number, "there are too many");
        table->complete = true;
    } else {
        if (table->id != NULL && partition->uuid == NULL)
            partition->uuid = g_strdup_printf("%s-%02x", table->id, partition->number);
        g_ptr_array_add(table->partitions, g_memdup2(partition, sizeof *partition));
        *partition = (FlPartition){0};
    }
}

/* Starts the chain at the beginning of the extended partition. */
static void begin_chain(FlTable *table, const FlTableEntry *entry)
{
    uint64_t start = entry->partition.start, length = entry->partition.length;

    if (start == 0 || start >= table->size || length > table->size - start) {
        leave_out(table, entry->partition.number, "extends beyond the disk");
    } else {
        table->link = table->extended_start = start;
        table->extended_end = start + length;
    }
}

/* Whether all partitions are within the disk; if not, the sector size may be wrong. */
static bool all_fit(const FlTable *table, const GArray *entries)
{
    for (guint i = 0; i < entries->len; i++) {
        const FlPartition *partition = &g_array_index(entries, FlTableEntry, i).partition;
        if (partition->start >= table->size || partition->length > table->size - partition->start)
            return false;
    }
    return true;
}

/*
 * The location of a GPT reveals the sector size that it uses. An MBR does not: use the server's
 * sector size if that is large, unless the partitions would then not fit on the disk.
 */
static const char *parse_head(FlTable *table, const void *bytes, size_t length, GArray *entries)
{
    uint32_t sectors[] = {SMALL_SECTOR, LARGE_SECTOR};

    if (table->sector == LARGE_SECTOR) {
        sectors[0] = LARGE_SECTOR;
        sectors[1] = SMALL_SECTOR;
    }
    for (unsigned i = 0; i < G_N_ELEMENTS(sectors); i++) {
        const char *kind =
            fl_probe_table(bytes, length, table->size, sectors[i], false, entries, &table->id);

        if (kind != NULL && (sectors[i] == SMALL_SECTOR || all_fit(table, entries))) {
            table->sector = sectors[i];
            return kind;
        }
        g_array_set_size(entries, 0);
        g_clear_pointer(&table->id, g_free);
    }
    return NULL;
}

static void feed_head(FlTable *table, const void *bytes, size_t length, GArray *entries)
{
    table->kind = parse_head(table, bytes, length, entries);
    if (g_strcmp0(table->kind, "gpt") == 0)
        g_clear_pointer(&table->id, g_free);
    for (guint i = 0; i < entries->len && !table->complete; i++) {
        FlTableEntry *entry = &g_array_index(entries, FlTableEntry, i);
        if (!entry->extended)
            add_partition(table, entry);
        else if (table->link == 0)
            begin_chain(table, entry);
    }
    table->complete = table->complete || table->link == 0;
}

/*
 * A link has the layout of an MBR: one entry for the logical partition, relative to the link, and
 * one for the next link, relative to the extended partition.
 */
static void feed_link(FlTable *table, const void *bytes, size_t length, GArray *entries)
{
    g_autofree char *id = NULL;
    uint64_t next = 0;

    fl_probe_table(bytes, length, table->size - table->link, table->sector, true, entries, &id);
    for (guint i = 0; i < entries->len && !table->complete; i++) {
        FlTableEntry *entry = &g_array_index(entries, FlTableEntry, i);

        if (entry->extended) {
            if (next == 0)
                next = entry->partition.start;
            continue;
        }
        entry->partition.number = FIRST_LOGICAL + table->logical++;
        if (entry->partition.start >= table->extended_end - table->link ||
            entry->partition.length > table->extended_end - table->link - entry->partition.start) {
            leave_out(table, entry->partition.number, "extends beyond the extended partition");
            continue;
        }
        entry->partition.start += table->link;
        add_partition(table, entry);
    }
    table->links++;
    if (next == 0 || next >= table->extended_end - table->extended_start ||
        table->links == LINKS_MAX)
        table->complete = true;
    table->link = table->extended_start + next;
}

void fl_table_feed(FlTable *table, const void *bytes)
{
    g_autoptr(GArray) entries = g_array_new(FALSE, FALSE, sizeof(FlTableEntry));
    uint64_t offset;
    size_t length;

    g_array_set_clear_func(entries, entry_clear);
    if (table->complete && table->contents != NULL)
        fl_contents_feed(table->contents, bytes);
    if (table->complete || !fl_table_wants(table, &offset, &length))
        return;
    if (table->kind == NULL)
        feed_head(table, bytes, length, entries);
    else
        feed_link(table, bytes, length, entries);
    if (table->complete)
        begin_contents(table, bytes, length);
}

bool fl_table_skip(FlTable *table)
{
    if (table->complete && table->contents != NULL)
        fl_contents_skip(table->contents);
    return table->complete;
}

bool fl_table_stop(FlTable *table)
{
    if (table->complete && table->contents != NULL)
        fl_contents_stop(table->contents);
    return table->complete;
}
