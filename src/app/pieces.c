/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "app/pieces.h"

#include "snapshot/piece-clock.h"
#include "snapshot/piece-notes.h"
#include "snapshot/point.h"

struct FlPieces {
    FlTimes *times;
    char *name; /* of the disk, for messages */
    char *source, *series, *place, *disk_id, *point;
    char *base; /* if POINT is only shown; NULL: it had none */
};

static const char *series_of(const char *series)
{
    return series != NULL ? series : FL_SERIES_DEFAULT;
}

static gint64 host_second(void)
{
    return g_get_real_time() / G_USEC_PER_SEC;
}

/* Time of the base of ORIGIN; 0 if it has none, or its id has no time. */
static gint64 base_second(const FlOrigin *origin)
{
    g_autofree char *name =
        origin->chain.base != NULL ? fl_point_bitmap(FL_SERIES_DEFAULT, origin->chain.base) : NULL;
    g_autoptr(FlPoint) point = name != NULL ? fl_point_parse(name) : NULL;

    return point != NULL ? point->seconds : 0;
}

void fl_pieces_add_image(GString *state, const FlExportInfo *image)
{
    g_string_append_printf(state, "%s%" G_GINT64_FORMAT ".%09ld %" G_GINT64_FORMAT ".%09ld",
                           state->len > 0 ? " " : "", (gint64)image->mtime.tv_sec,
                           image->mtime.tv_nsec, (gint64)image->ctime.tv_sec, image->ctime.tv_nsec);
}

/* A changed piece always gets a later time than before, whatever the host's clock says. */
static void set_time(FlOrigin *origin, const FlSourceSpec *spec, const char *state)
{
    gint64 floor = base_second(origin), second = origin->pieces.time.tv_sec;
    g_autoptr(GError) error = NULL;

    if (origin->pieces.times != NULL)
        floor = MAX(floor, fl_times_latest(origin->pieces.times).tv_sec);
    if (!fl_piece_clock_next(spec->text, state, floor, host_second(), &second, &error))
        g_log(G_LOG_DOMAIN, origin->snapshot.taken ? G_LOG_LEVEL_WARNING : G_LOG_LEVEL_INFO,
              "%s: cannot save the time of its pieces: %s; do not set the clock back", spec->text,
              error->message);
    if (second > origin->pieces.time.tv_sec)
        origin->pieces.time = (struct timespec){.tv_sec = second};
}

static void log_unusable(const FlOrigin *origin, GLogLevelFlags level, const char *why)
{
    g_log(G_LOG_DOMAIN, level,
          "disk %s: all files in split/ have the time of this snapshot: the notes of restore point "
          "%s are not usable: %s",
          origin->folder, origin->chain.base, why);
}

static void take_over(const FlOrigin *origin)
{
    fl_piece_notes_take_over(
        &(FlPieceNotes){.source = origin->pieces.foreign, .place = origin->pieces.place});
}

static void log_foreign(const FlOrigin *origin)
{
    if (origin->chain.base != NULL && origin->chain.increment != NULL)
        log_unusable(origin, G_LOG_LEVEL_MESSAGE,
                     "another series, or another disk in this place, was read in pieces since");
}

static void take_over_aloud(const FlOrigin *origin)
{
    take_over(origin);
    log_foreign(origin);
}

/* A series that has never been read in pieces may stay so: that the times are new is reported when
 * they are shown. */
static void set_foreign(FlOrigin *origin, const FlPieceNotes *notes)
{
    bool used = fl_piece_notes_exist(notes);

    origin->pieces.foreign = g_strdup(notes->source);
    origin->pieces.take_over = used ? take_over : take_over_aloud;
    if (used)
        log_foreign(origin);
}

void fl_pieces_load(FlOrigin *origin, const FlSourceSpec *spec, bool one_disk,
                    const FlOptions *options, const FlExportInfo *info, const char *state)
{
    FlPieceNotes notes = {.source = spec->text, .series = series_of(options->series)};
    uint64_t piece_size;
    bool named_disk = one_disk && spec->name != NULL, is_image = info->mtime.tv_sec != 0;
    const char *why;

    origin->pieces.place = g_strconcat(named_disk           ? ""
                                       : spec->name != NULL ? spec->name
                                                            : "",
                                       "/", named_disk ? spec->name : origin->folder, NULL);
    origin->pieces.time = is_image ? info->mtime : origin->time;
    origin->pieces.ctime = is_image ? info->ctime : origin->ctime;
    notes.place = origin->pieces.place;
    notes.disk_id = origin->chain.disk_id;
    if (origin->snapshot.taken && fl_piece_notes_foreign(&notes))
        set_foreign(origin, &notes);
    if (origin->pieces.foreign != NULL || origin->chain.base == NULL ||
        origin->chain.increment == NULL) {
        if (origin->snapshot.taken)
            set_time(origin, spec, state);
        return;
    }
    notes.point = origin->chain.base;
    origin->pieces.times = fl_piece_notes_load(&notes, !origin->snapshot.taken, &why);
    origin->pieces.shown = fl_piece_notes_others(&notes, !origin->snapshot.taken);
    set_time(origin, spec, state);
    if (origin->pieces.times != NULL) {
        piece_size = options->view.split != 0 ? options->view.split
                                              : fl_times_piece_size(origin->pieces.times);
        if (fl_times_fit(origin->pieces.times, info->size, piece_size, origin->pieces.time, &why))
            return;
        g_clear_pointer(&origin->pieces.times, fl_times_free);
    }
    /* Without a snapshot there are no notes to expect and no backup to make. */
    log_unusable(origin, origin->snapshot.taken ? G_LOG_LEVEL_MESSAGE : G_LOG_LEVEL_INFO, why);
}

static FlPieces *new_pieces(FlExport *export, const FlSnapshotOptions *options, const char *point,
                            const char *base)
{
    const FlOrigin *origin = fl_export_origin(export);
    FlPieces *pieces;

    if (point == NULL || origin->pieces.place == NULL ||
        fl_disk_maps(fl_export_disk(export)) == NULL ||
        (origin->pieces.foreign != NULL && !fl_split_was_shown(fl_export_split(export))))
        return NULL;
    pieces = g_new(FlPieces, 1);
    *pieces = (FlPieces){
        .times = fl_split_all_times(fl_export_split(export)),
        .name = g_strdup(origin->folder),
        .source = g_strdup(options->source),
        .series = g_strdup(series_of(options->series)),
        .place = g_strdup(origin->pieces.place),
        .disk_id = g_strdup(origin->chain.disk_id),
        .point = g_strdup(point),
        .base = g_strdup(base),
    };
    return pieces;
}

FlPieces *fl_pieces_new(FlExport *export, const FlSnapshotOptions *options)
{
    return new_pieces(export, options, fl_export_origin(export)->chain.restore_point, NULL);
}

FlPieces *fl_pieces_new_shown(FlExport *export, const FlSnapshotOptions *options)
{
    const FlOriginChain *chain = &fl_export_origin(export)->chain;
    FlSplit *split = fl_export_split(export);

    if (!fl_split_was_shown(split) || fl_disk_maps(fl_export_disk(export)) == NULL ||
        fl_split_changed(split) == 0)
        return NULL;
    return new_pieces(export, options,
                      chain->restore_point != NULL ? chain->restore_point
                                                   : fl_export_origin(export)->snapshot.id,
                      chain->base);
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
    g_free(pieces->base);
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
        g_warning("%s: cannot save the end time of the mount: %s; do not set the clock back",
                  options->source, error->message);
}

void fl_pieces_save_shown(const FlPieces *pieces)
{
    FlPieceNotes notes = notes_of(pieces);
    g_autoptr(GError) error = NULL;

    /* Without a base (--full, or it was lost) all pieces were shown with a new time: older notes
     * would make them older again if the disk was rolled back. */
    if (pieces->base == NULL || fl_piece_notes_save(&notes, pieces->times, &error))
        fl_piece_notes_settle(&notes, pieces->base);
    else
        g_warning(
            "disk %s: cannot save the times of its pieces: %s; do not put the disk back to an "
            "older state before the next backup",
            pieces->name, error->message);
}

void fl_pieces_save(const FlPieces *pieces)
{
    FlPieceNotes notes = notes_of(pieces);
    g_autoptr(GError) error = NULL;

    if (!fl_piece_notes_save(&notes, pieces->times, &error))
        g_warning("disk %s: cannot save the times of its pieces: %s; the next backup in pieces "
                  "reads all of them",
                  pieces->name, error->message);
}

void fl_pieces_settle(const FlPieces *pieces)
{
    FlPieceNotes notes = notes_of(pieces);

    fl_piece_notes_settle(&notes, NULL);
}
