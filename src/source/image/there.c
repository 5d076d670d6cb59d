/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source/image/there.h"

#include "source/image/whole.h"
#include "qemu/json.h"
#include "util/deadline.h"

#include <string.h>

#define CHECK_SECONDS 60
/* Starts the descriptor of a VMDK, which names the image's other files. */
#define VMDK_DESCRIPTOR "# Disk DescriptorFile"

/* A file that is open in the storage daemon. */
typedef struct {
    char *path, *node;
    bool device;
    uint64_t size;
    char *export;       /* id, different each time */
    FlImageBytes bytes; /* while exported; this is their OPAQUE */
    FlConn *conn;       /* NULL: not exported */
    FlWait wait;
} File;

typedef struct {
    const FlImageHost *host;
    unsigned number;
    GPtrArray *files;  /* of File */
    unsigned exported; /* so far */
} There;

static void file_free(gpointer data)
{
    File *file = data;

    g_free(file->path);
    g_free(file->node);
    g_free(file->export);
    g_free(file);
}

/* Opens the file at PATH, unless it is open. */
static File *open_file(There *there, const char *path, GError **error)
{
    const FlImageHost *host = there->host;
    File *file;

    for (guint i = 0; i < there->files->len; i++) {
        file = there->files->pdata[i];
        if (g_str_equal(file->path, path))
            return file;
    }
    file = g_new0(File, 1);
    file->path = g_strdup(path);
    file->node = g_strdup_printf("file-%u-%u", there->number, there->files->len);
    if (host->look(path, &file->device, &file->size, host->opaque, error) &&
        fl_qmp_call(host->qmp, "blockdev-add",
                    fl_qmp_args(fl_qmp_string("driver", file->device ? "host_device" : "file"),
                                fl_qmp_string("node-name", file->node),
                                fl_qmp_bool("read-only", true), fl_qmp_string("filename", path)),
                    NULL, error)) {
        g_ptr_array_add(there->files, file);
        return file;
    }
    file_free(file);
    return NULL;
}

static bool look(FlImage *image, const char *format, void *opaque, GError **error)
{
    const File *file = open_file(opaque, image->path, error);

    if (file == NULL)
        return false;
    image->block_device = file->device;
    return true;
}

/* Whether images of FORMAT may have backing files: then "backing" null leaves them out. */
static bool has_backing(const char *format)
{
    static const char *const formats[] = {"qcow2", "qcow", "qed", "vmdk", NULL};

    return g_strv_contains(formats, format);
}

/* Returns the description of NODE. */
static JsonObject *describe(FlQmp *qmp, const char *node, GError **error)
{
    g_autoptr(JsonNode) reply = NULL;
    JsonArray *nodes;

    if (!fl_qmp_call(qmp, "query-named-block-nodes", fl_qmp_args(fl_qmp_bool("flat", true)), &reply,
                     error))
        return NULL;
    nodes = fl_json_as_array(reply);
    for (guint i = 0; i < fl_json_length(nodes); i++) {
        JsonObject *found = fl_json_element(nodes, i);
        JsonObject *info = g_strcmp0(fl_json_string(found, "node-name"), node) == 0
                               ? fl_json_object(found, "image")
                               : NULL;

        if (info != NULL)
            return json_object_ref(info);
    }
    fl_fail(error, "the storage daemon does not describe it");
    return NULL;
}

static bool read_bytes(void *opaque, void *buf, size_t length, uint64_t offset, GError **error)
{
    File *file = opaque;
    FlSpan span = {.start = offset, .end = offset + length};
    void *bytes = NULL;

    if (!fl_conn_peek(file->conn, &span, 1, &bytes, &file->wait, error))
        return false;
    memcpy(buf, bytes, length);
    g_free(bytes);
    return true;
}

/* Exports FILE itself, to read its tables. */
static bool export_file(There *there, File *file, GError **error)
{
    const FlImageHost *host = there->host;
    g_autoptr(GPtrArray) found = NULL;
    const FlExportInfo *info;

    g_free(file->export);
    file->export = g_strdup_printf("%s-%u", file->node, there->exported++);
    if (!fl_qmp_call(host->qmp, "block-export-add",
                     fl_qmp_args(fl_qmp_string("type", "nbd"), fl_qmp_string("id", file->export),
                                 fl_qmp_string("node-name", file->node)),
                     NULL, error))
        return false;
    file->wait = (FlWait){.seconds = host->seconds, .deadline = fl_deadline_in(CHECK_SECONDS)};
    found = fl_source_exports(host->server, file->node, &file->wait, error);
    if (found == NULL)
        return false;
    info = found->pdata[0];
    file->conn = fl_source_open(host->server, info, NULL, &file->wait, error);
    /* The size of an export is rounded up to sectors. */
    file->bytes = (FlImageBytes){.size = file->device ? info->size : MIN(file->size, info->size),
                                 .read = read_bytes,
                                 .opaque = file};
    return file->conn != NULL;
}

/* Undoes export_file(), even if it failed. The node stays: it may have a client for a moment. */
static void unexport_file(There *there, File *file)
{
    fl_conn_close(g_steal_pointer(&file->conn), NULL);
    if (file->export != NULL)
        fl_qmp_call(there->host->qmp, "block-export-del",
                    fl_qmp_args(fl_qmp_string("id", file->export), fl_qmp_string("mode", "hard")),
                    NULL, NULL);
}

/* QEMU would open the files that the descriptor of a VMDK names. */
static bool check_vmdk(There *there, File *file, GError **error)
{
    char start[sizeof VMDK_DESCRIPTOR - 1] = "";
    bool ok = export_file(there, file, error) &&
              (file->bytes.size < sizeof start || read_bytes(file, start, sizeof start, 0, error));

    unexport_file(there, file);
    return ok && (memcmp(start, VMDK_DESCRIPTOR, sizeof start) != 0 ||
                  fl_fail(error, "it is a VMDK that refers to other files, which is not safe; "
                                 "convert it to one file: qemu-img convert -f vmdk -O qcow2 THIS "
                                 "COPY.qcow2"));
}

static JsonObject *ask(FlImage *image, const char *path, const char *format, void *opaque,
                       GError **error)
{
    static const char probe[] = "probe";
    There *there = opaque;
    FlQmp *qmp = there->host->qmp;
    File *file = open_file(there, path, error);
    g_autoptr(GError) failure = NULL;
    JsonObject *info;

    if (file == NULL || (there->host->server != NULL && g_str_equal(format, "vmdk") &&
                         !check_vmdk(there, file, error)))
        return NULL;
    if (!fl_qmp_call(
            qmp, "blockdev-add",
            fl_qmp_args(
                fl_qmp_string("driver", format), fl_qmp_string("node-name", probe),
                fl_qmp_bool("read-only", true), fl_qmp_string("file", file->node),
                fl_qmp_node("backing", has_backing(format) ? json_node_new(JSON_NODE_NULL) : NULL)),
            NULL, &failure)) {
        if (strstr(failure->message, "key-secret") != NULL)
            fl_fail(error, "it is encrypted, and only the running VM has the key: start it");
        else
            g_propagate_error(error, g_steal_pointer(&failure));
        return NULL;
    }
    info = describe(qmp, probe, error);
    fl_qmp_call(qmp, "blockdev-del", fl_qmp_args(fl_qmp_string("node-name", probe)), NULL, NULL);
    return info;
}

static bool check(const char *path, const char *format, const char *data_file, void *opaque,
                  GError **error)
{
    There *there = opaque;
    File *file, *data = NULL;
    bool ok;

    if (there->host->server == NULL || g_strcmp0(format, "raw") == 0)
        return true;
    file = open_file(there, path, error);
    if (file != NULL && data_file != NULL)
        data = open_file(there, data_file, error);
    if (file == NULL || (data_file != NULL && data == NULL))
        return false;
    ok = export_file(there, file, error) && (data == NULL || export_file(there, data, error)) &&
         fl_image_check_bytes(&file->bytes, format, data != NULL ? &data->bytes : NULL, error);
    unexport_file(there, file);
    if (data != NULL)
        unexport_file(there, data);
    return ok;
}

FlImage *fl_image_export_there(const FlImageHost *host, const char *path, const char *format,
                               const char *name, unsigned number, GError **error)
{
    static const FlImageProber prober = {.strict = true, .look = look, .ask = ask, .check = check};
    g_autoptr(GPtrArray) files = g_ptr_array_new_with_free_func(file_free);
    There there = {host, number, files, 0};
    g_autoptr(FlImage) image = fl_image_probe_by(&prober, &there, path, format, number, error);

    if (image == NULL)
        return NULL;
    g_free(image->info.name);
    image->info.name = g_strdup(name);
    return fl_image_export(image, host->qmp, error) ? g_steal_pointer(&image) : NULL;
}
