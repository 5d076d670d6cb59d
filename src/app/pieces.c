/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "app/pieces.h"

#include "snapshot/piece-notes.h"

struct FlPieces {
    FlTimes *times;
    char *name; /* of the disk, for people */
    char *source, *series, *place, *disk_id, *point;
};

static const char *series_of(const char *series)
{
    return series != NULL ? series : "last";
}

void fl_pieces_load(FlOrigin *origin, const FlSourceSpec *spec, const FlOptions *options,
                    uint64_t size)
{
    FlPieceNotes notes = {.source = spec->text, .series = series_of(options->series)};
    uint64_t piece_size;
    const char *why;

    origin->place = g_strconcat(spec->name != NULL ? spec->name : "", "/", origin->folder, NULL);
    if (origin->base == NULL || origin->increment == NULL)
        return;
    notes.place = origin->place;
    notes.disk_id = origin->disk_id;
    notes.point = origin->base;
    origin->times = fl_piece_notes_load(&notes, &why);
    if (origin->times != NULL) {
        piece_size =
            options->view.split != 0 ? options->view.split : fl_times_piece_size(origin->times);
        if (fl_times_fit(origin->times, size, piece_size, origin->time, &why))
            return;
        g_clear_pointer(&origin->times, fl_times_free);
    }
    /* Whoever looks at an image elsewhere has no notes of it, and no backup to make. */
    g_log(G_LOG_DOMAIN, origin->snapshot ? G_LOG_LEVEL_MESSAGE : G_LOG_LEVEL_INFO,
          "disk %s: all files in split/ are of this point in time: of the notes of restore point "
          "%s, %s",
          origin->folder, origin->base, why);
}

FlPieces *fl_pieces_new(FlExport *export, const FlSnapshotOptions *options)
{
    const FlOrigin *origin = fl_export_origin(export);
    FlPieces *pieces;

    if (origin->restore_point == NULL || origin->place == NULL ||
        fl_disk_maps(fl_export_disk(export)) == NULL)
        return NULL;
    pieces = g_new(FlPieces, 1);
    *pieces = (FlPieces){
        .times = fl_split_all_times(fl_export_split(export)),
        .name = g_strdup(origin->folder),
        .source = g_strdup(options->source),
        .series = g_strdup(series_of(options->series)),
        .place = g_strdup(origin->place),
        .disk_id = g_strdup(origin->disk_id),
        .point = g_strdup(origin->restore_point),
    };
    return pieces;
}

void fl_pieces_free(FlPieces *pieces)
{
    if (pieces == NULL)
        return;
    fl_times_free(pieces->times);
    g_free(pieces->name);
    g_free(pieces->source);
    g_free(pieces->series);
    g_free(pieces->place);
    g_free(pieces->disk_id);
    g_free(pieces->point);
    g_free(pieces);
}

static FlPieceNotes notes_of(const FlPieces *pieces)
{
    return (FlPieceNotes){
        .source = pieces->source,
        .series = pieces->series,
        .place = pieces->place,
        .disk_id = pieces->disk_id,
        .point = pieces->point,
    };
}

void fl_pieces_save(const FlPieces *pieces)
{
    FlPieceNotes notes = notes_of(pieces);
    g_autoptr(GError) error = NULL;

    if (!fl_piece_notes_save(&notes, pieces->times, &error))
        g_warning("disk %s: the times of its pieces cannot be noted: %s; the next backup by pieces "
                  "reads all of them",
                  pieces->name, error->message);
}

void fl_pieces_settle(const FlPieces *pieces)
{
    FlPieceNotes notes = notes_of(pieces);

    fl_piece_notes_settle(&notes);
}
