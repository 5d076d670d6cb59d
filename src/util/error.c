/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "util/error.h"

/* Not G_DEFINE_QUARK: threads race for its static variable. */
GQuark fl_error_quark(void)
{
    return g_quark_from_static_string("fl-error-quark");
}

G_GNUC_PRINTF(3, 0)
static void set_error(GError **error, FlErrorCode code, const char *format, va_list args)
{
    g_autoptr(GError) made = g_error_new_valist(FL_ERROR, code, format, args);

    /* An error is one line, whatever a server or QEMU wrote into its own message. */
    g_strdelimit(made->message, "\r\n", ' ');
    g_strchomp(made->message);
    g_propagate_error(error, g_steal_pointer(&made));
}

bool fl_fail(GError **error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    set_error(error, FL_ERROR_FAILED, format, args);
    va_end(args);
    return false;
}

bool fl_fail_usage(GError **error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    set_error(error, FL_ERROR_USAGE, format, args);
    va_end(args);
    return false;
}

bool fl_fail_lost(GError **error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    set_error(error, FL_ERROR_LOST, format, args);
    va_end(args);
    return false;
}

bool fl_fail_changed(GError **error, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    set_error(error, FL_ERROR_CHANGED, format, args);
    va_end(args);
    return false;
}

int fl_error_exit_status(const GError *error)
{
    bool is_status = error->domain == FL_ERROR && error->code <= FL_ERROR_LEFT;

    return is_status ? error->code : FL_ERROR_FAILED;
}
