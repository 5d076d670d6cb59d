/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "app/pieces.h"

#include "snapshot/piece-clock.h"
#include "snapshot/piece-notes.h"
#include "snapshot/point.h"

struct FlPieces {
    FlTimes *times;
    char *name; /* of the disk, for people */
    char *source, *series, *place, *disk_id, *point;
};

static const char *series_of(const char *series)
{
    return series != NULL ? series : FL_SERIES_DEFAULT;
}

static gint64 host_second(void)
{
    return g_get_real_time() / G_USEC_PER_SEC;
}

/* When the base of ORIGIN was taken; 0 if there is none, or its id does not say. */
static gint64 base_second(const FlOrigin *origin)
{
    g_autofree char *name =
        origin->base != NULL ? fl_point_bitmap(FL_SERIES_DEFAULT, origin->base) : NULL;
    g_autoptr(FlPoint) point = name != NULL ? fl_point_parse(name) : NULL;

    return point != NULL ? point->seconds : 0;
}

void fl_pieces_add_image(GString *state, const FlExportInfo *image)
{
    g_string_append_printf(state, "%s%" G_GINT64_FORMAT ".%09ld %" G_GINT64_FORMAT ".%09ld",
                           state->len > 0 ? " " : "", (gint64)image->mtime.tv_sec,
                           image->mtime.tv_nsec, (gint64)image->ctime.tv_sec, image->ctime.tv_nsec);
}

/* A piece that has changed is later than it has ever been, whatever the host's clock says. */
static void set_time(FlOrigin *origin, const FlSourceSpec *spec, const char *state)
{
    gint64 floor = base_second(origin), second = origin->piece_time.tv_sec;
    g_autoptr(GError) error = NULL;

    if (origin->times != NULL)
        floor = MAX(floor, fl_times_latest(origin->times).tv_sec);
    if (!fl_piece_clock_next(spec->text, state, floor, host_second(), &second, &error))
        g_log(G_LOG_DOMAIN, origin->snapshot ? G_LOG_LEVEL_WARNING : G_LOG_LEVEL_INFO,
              "%s: the time of its pieces cannot be noted: %s; do not set the clock back",
              spec->text, error->message);
    if (second > origin->piece_time.tv_sec)
        origin->piece_time = (struct timespec){.tv_sec = second};
}

void fl_pieces_load(FlOrigin *origin, const FlSourceSpec *spec, bool one_disk,
                    const FlOptions *options, const FlExportInfo *info, const char *state)
{
    FlPieceNotes notes = {.source = spec->text, .series = series_of(options->series)};
    uint64_t piece_size;
    bool named_disk = one_disk && spec->name != NULL, is_image = info->mtime.tv_sec != 0;
    const char *why;

    origin->place = g_strconcat(named_disk           ? ""
                                : spec->name != NULL ? spec->name
                                                     : "",
                                "/", named_disk ? spec->name : origin->folder, NULL);
    origin->piece_time = is_image ? info->mtime : origin->time;
    origin->piece_ctime = is_image ? info->ctime : origin->ctime;
    notes.place = origin->place;
    notes.disk_id = origin->disk_id;
    if (origin->snapshot)
        fl_piece_notes_show(&notes);
    if (origin->base == NULL || origin->increment == NULL) {
        if (origin->snapshot)
            set_time(origin, spec, state);
        return;
    }
    notes.point = origin->base;
    origin->times = fl_piece_notes_load(&notes, &why);
    set_time(origin, spec, state);
    if (origin->times != NULL) {
        piece_size =
            options->view.split != 0 ? options->view.split : fl_times_piece_size(origin->times);
        if (fl_times_fit(origin->times, info->size, piece_size, origin->piece_time, &why))
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

void fl_pieces_ended(const FlSnapshotOptions *options)
{
    g_autoptr(GError) error = NULL;

    if (!fl_piece_clock_end(options->source, host_second(), &error))
        g_warning("%s: its end cannot be noted: %s; do not set the clock back", options->source,
                  error->message);
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
