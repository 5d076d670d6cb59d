/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "stored/when.h"

#include <stdio.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Returns the end of the day DAYS days after that of NOW. */
static GDateTime *end_of_day(GDateTime *now, int days)
{
    g_autoptr(GDateTime) midnight =
        g_date_time_new(g_date_time_get_timezone(now), g_date_time_get_year(now),
                        g_date_time_get_month(now), g_date_time_get_day_of_month(now), 0, 0, 0);

    return midnight != NULL ? g_date_time_add_days(midnight, days + 1) : NULL;
}

static GDateTime *end_of_word(const char *word, GDateTime *now)
{
    static const char *const weekdays[] = {"monday", "tuesday",  "wednesday", "thursday",
                                           "friday", "saturday", "sunday"};

    if (g_str_equal(word, "now"))
        return g_date_time_ref(now);
    if (g_str_equal(word, "today"))
        return end_of_day(now, 0);
    if (g_str_equal(word, "yesterday"))
        return end_of_day(now, -1);
    for (int i = 0; i < (int)G_N_ELEMENTS(weekdays); i++) {
        if (g_str_equal(word, weekdays[i]))
            return end_of_day(now, -((g_date_time_get_day_of_week(now) - 1 - i + 7) % 7));
    }
    return NULL;
}

static GDateTime *end_of_ago(const char *words, GDateTime *now)
{
    g_autoptr(GRegex) form = g_regex_new("^(\\d{1,6}) (minute|hour|day|week)s? ago$", 0, 0, NULL);
    g_autoptr(GMatchInfo) match = NULL;
    g_autofree char *count = NULL, *unit = NULL;
    int n;

    if (!g_regex_match(form, words, 0, &match))
        return NULL;
    count = g_match_info_fetch(match, 1);
    unit = g_match_info_fetch(match, 2);
    n = atoi(count);
    if (g_str_equal(unit, "minute"))
        return g_date_time_add_minutes(now, -n);
    if (g_str_equal(unit, "hour"))
        return g_date_time_add_hours(now, -n);
    return end_of_day(now, g_str_equal(unit, "week") ? -7 * n : -n);
}

static GTimeZone *zone_of(const char *text, GDateTime *now)
{
    g_autofree char *upper = g_ascii_strup(text, -1);

    return *text == '\0' ? g_time_zone_ref(g_date_time_get_timezone(now))
                         : g_time_zone_new_identifier(upper);
}

/* The group's number; 0 if it is absent. */
static double number_of(const GMatchInfo *match, int group)
{
    g_autofree char *text = g_match_info_fetch(match, group);

    return text != NULL ? g_ascii_strtod(text, NULL) : 0;
}

static bool is_given(const GMatchInfo *match, int group)
{
    g_autofree char *text = g_match_info_fetch(match, group);

    return text != NULL && *text != '\0';
}

static GDateTime *end_of_date(const char *when, GDateTime *now)
{
    g_autoptr(GRegex) form = g_regex_new("^(\\d{4})-(\\d\\d)-(\\d\\d)"
                                         "(?:[Tt ](\\d\\d):(\\d\\d)(?::(\\d\\d(\\.\\d{1,9})?))?"
                                         " ?([Zz]|[+-]\\d\\d:?\\d\\d)?)?$",
                                         0, 0, NULL);
    enum { YEAR = 1, MONTH, DAY, HOUR, MINUTE, SECOND, FRACTION, ZONE };
    g_autoptr(GMatchInfo) match = NULL;
    g_autoptr(GTimeZone) zone = NULL;
    g_autoptr(GDateTime) start = NULL;
    g_autofree char *zone_text = NULL;

    if (!g_regex_match(form, when, 0, &match))
        return NULL;
    zone_text = g_match_info_fetch(match, ZONE);
    zone = zone_of(zone_text != NULL ? zone_text : "", now);
    if (zone != NULL)
        start = g_date_time_new(zone, (int)number_of(match, YEAR), (int)number_of(match, MONTH),
                                (int)number_of(match, DAY), (int)number_of(match, HOUR),
                                (int)number_of(match, MINUTE), number_of(match, SECOND));
    if (start == NULL)
        return NULL;
    if (!is_given(match, HOUR))
        return end_of_day(start, 0);
    if (!is_given(match, SECOND))
        return g_date_time_add_minutes(start, 1);
    if (!is_given(match, FRACTION))
        return g_date_time_add_seconds(start, 1);
    return g_steal_pointer(&start);
}

/* Parses a word for a day, followed by a time: "yesterday 22:10". */
static GDateTime *end_of_time(const char *text, const char *lower, GDateTime *now)
{
    const char *time = strchr(text, ' ');
    g_autofree char *word = time != NULL ? g_strndup(lower, (gsize)(time - text)) : NULL;
    g_autoptr(GDateTime) end = NULL, day = NULL;
    g_autofree char *date = NULL, *full = NULL;

    if (word == NULL || g_str_equal(word, "now") || (end = end_of_word(word, now)) == NULL)
        return NULL;
    day = g_date_time_add_days(end, -1);
    date = g_date_time_format(day, "%Y-%m-%d");
    full = g_strconcat(date, time, NULL);
    return end_of_date(full, now);
}

GDateTime *fl_when_end(const char *when, GDateTime *now)
{
    g_autofree char *text = g_strstrip(g_strdup(when)), *lower = g_ascii_strdown(text, -1);
    GDateTime *end = end_of_word(lower, now);

    if (end == NULL)
        end = end_of_ago(lower, now);
    if (end == NULL)
        end = end_of_time(text, lower, now);
    return end != NULL ? end : end_of_date(text, now);
}
