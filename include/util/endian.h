/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Unaligned access to fixed-width little-endian and big-endian integers. */
#pragma once

#include <glib.h>
#include <stdint.h>
#include <string.h>

#define FL_DEFINE_READER(name, type, convert)                                                      \
    static inline type name(const void *bytes)                                                     \
    {                                                                                              \
        type value;                                                                                \
                                                                                                   \
        memcpy(&value, bytes, sizeof value);                                                       \
        return convert(value);                                                                     \
    }

FL_DEFINE_READER(fl_le32, uint32_t, GUINT32_FROM_LE)
FL_DEFINE_READER(fl_le64, uint64_t, GUINT64_FROM_LE)
FL_DEFINE_READER(fl_be32, uint32_t, GUINT32_FROM_BE)
FL_DEFINE_READER(fl_be64, uint64_t, GUINT64_FROM_BE)

#define FL_DEFINE_WRITER(name, type, convert)                                                      \
    static inline void name(void *bytes, type value)                                               \
    {                                                                                              \
        value = convert(value);                                                                    \
        memcpy(bytes, &value, sizeof value);                                                       \
    }

FL_DEFINE_WRITER(fl_put_be32, uint32_t, GUINT32_TO_BE)
FL_DEFINE_WRITER(fl_put_be64, uint64_t, GUINT64_TO_BE)
