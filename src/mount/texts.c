/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "texts.h"

void fl_texts_clear(FlTexts *texts)
{
    while (texts->head != NULL)
        fl_texts_close(texts, texts->head->data);
}

FlText *fl_texts_open(FlTexts *texts, const FlNode *node)
{
    FlText *text = g_new0(FlText, 1);

    text->link.data = text;
    text->ino = node->ino;
    text->bytes = node->make_text(node->opaque);
    clock_gettime(CLOCK_REALTIME, &text->time);
    g_queue_push_head_link(texts, &text->link);
    return text;
}

void fl_texts_close(FlTexts *texts, FlText *text)
{
    g_queue_unlink(texts, &text->link);
    g_bytes_unref(text->bytes);
    g_free(text);
}

void fl_texts_attributes(const FlTexts *texts, const FlNode *node, size_t *size_out,
                         struct timespec *time_out)
{
    g_autoptr(GBytes) bytes = NULL;

    for (const GList *link = texts->head; link != NULL; link = link->next) {
        const FlText *text = link->data;

        if (text->ino == node->ino) {
            *size_out = g_bytes_get_size(text->bytes);
            *time_out = text->time;
            return;
        }
    }
    bytes = node->make_text(node->opaque);
    *size_out = g_bytes_get_size(bytes);
    clock_gettime(CLOCK_REALTIME, time_out);
}
