/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tls.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static bool is_fixed(struct nbd_handle *nbd)
{
    unsigned major = 0, minor = 0, patch = 0;

    if (sscanf(nbd_get_version(nbd), "%u.%u.%u", &major, &minor, &patch) != 3 || major < 1)
        return false;
    return major > 1 || minor > 20 || (minor == 20 && patch >= 3) || (minor == 18 && patch >= 5);
}

#define AUTHORITY "ca-cert.pem"

static bool is_certificate(const char *text)
{
    return strstr(text, "CERTIFICATE-----") != NULL;
}

/* Whether TEXT has a line "USER:KEY", KEY in hex (psktool(1)). */
static bool is_key_list(const char *text)
{
    return g_regex_match_simple("^[^:\\s]+:[0-9A-Fa-f]+\\s*$", text,
                                G_REGEX_MULTILINE | G_REGEX_RAW, 0);
}

/* Whether FILE exists and passes LOOKS_RIGHT. */
static bool check_file(const char *file, bool (*looks_right)(const char *text), const char *what,
                       GError **error)
{
    g_autofree char *text = NULL;
    g_autoptr(GError) why = NULL;

    /* Not a pipe: reading it would block. */
    if (g_file_test(file, G_FILE_TEST_EXISTS) && !g_file_test(file, G_FILE_TEST_IS_REGULAR))
        return fl_fail(error, "%s is not a file", file);
    if (!g_file_get_contents(file, &text, NULL, &why))
        return fl_fail(error, "%s: it is required for the connection", why->message);
    return looks_right(text) || fl_fail(error, "%s contains no %s", file, what);
}

static bool has_authority(const char *folder)
{
    g_autofree char *file = g_build_filename(folder, AUTHORITY, NULL);

    return check_file(file, is_certificate, "certificate", NULL);
}

/* Whether certificates exist in libnbd's default locations. */
static bool has_usual_authority(void)
{
    g_autofree char *first = g_build_filename(g_get_home_dir(), ".pki/libnbd", NULL);
    g_autofree char *second = g_build_filename(g_get_home_dir(), ".config/pki/libnbd", NULL);

    if (geteuid() == 0)
        return has_authority("/etc/pki/libnbd");
    return has_authority(first) || has_authority(second);
}

static GHashTable *parse_params(const GUri *uri)
{
    const char *query = uri != NULL ? g_uri_get_query((GUri *)uri) : NULL;

    return query != NULL ? g_uri_parse_params(query, -1, "&", G_URI_PARAMS_NONE, NULL) : NULL;
}

void fl_tls_allow(FlSandbox *sandbox, const char *uri)
{
    static const char *const files[] = {"tls-certificates", "tls-psk-file"};
    static const char *const usual[] = {".pki", ".config/pki"};
    g_autoptr(GUri) parsed = g_uri_parse(uri, G_URI_FLAGS_NONE, NULL);
    g_autoptr(GHashTable) params = parse_params(parsed);

    if (!g_str_has_prefix(uri, "nbds"))
        return;
    fl_sandbox_allow_names(sandbox);
    for (size_t i = 0; i < G_N_ELEMENTS(files); i++) {
        g_autofree char *home = g_build_filename(g_get_home_dir(), usual[i], NULL);

        if (params != NULL)
            fl_sandbox_allow(sandbox, g_hash_table_lookup(params, files[i]), FL_SANDBOX_READ);
        fl_sandbox_allow(sandbox, home, FL_SANDBOX_READ);
    }
}

/* Checks that the files named in the query of URI exist and are what they should be: libnbd (1.14)
 * trusts everyone if the folder has no authority, and ignores parameters that it does not know. */
static bool check_params(GHashTable *params, bool secure, GError **error)
{
    static const char *const known[] = {"tls-certificates",
                                        "tls-psk-file",
                                        "tls-hostname",
                                        "tls-username",
                                        "tls-type",
                                        "tls-verify-peer",
                                        NULL};
    GHashTableIter iter;
    gpointer name, value;

    g_hash_table_iter_init(&iter, params);
    while (g_hash_table_iter_next(&iter, &name, &value)) {
        g_autofree char *authority = g_build_filename(value, AUTHORITY, NULL);

        if (!g_str_has_prefix(name, "tls-"))
            continue;
        if (!secure)
            return fl_fail(error, "%s requires nbds:; nbd: is not encrypted", (const char *)name);
        if (!g_strv_contains(known, name))
            return fl_fail(error, "the URI has %s, which does not exist", (const char *)name);
        if (g_str_equal(name, "tls-certificates") &&
            !check_file(authority, is_certificate, "certificate", error))
            return false;
        if (g_str_equal(name, "tls-psk-file") && !check_file(value, is_key_list, "key", error))
            return false;
    }
    return true;
}

bool fl_tls_check(struct nbd_handle *nbd, const char *uri, GError **error)
{
    g_autoptr(GUri) parsed = g_uri_parse(uri, G_URI_FLAGS_NONE, NULL);
    g_autoptr(GHashTable) params = parse_params(parsed);

    bool secure = g_str_has_prefix(uri, "nbds");

    if (params != NULL && !check_params(params, secure, error))
        return false;
    if (!secure || is_fixed(nbd))
        return true;
    if (parsed == NULL)
        return fl_fail(error, "the URI is invalid");
    if (params != NULL && g_hash_table_contains(params, "tls-psk-file"))
        return true;
    if (!g_str_equal(g_uri_get_scheme(parsed), "nbds"))
        return fl_fail(
            error,
            "libnbd %s verifies certificates over TCP only (CVE-2024-7383): update it, or "
            "use tls-psk-file=FILE or nbds://HOST",
            nbd_get_version(nbd));
    if ((params != NULL && g_hash_table_contains(params, "tls-certificates")) ||
        has_usual_authority())
        return true;
    return fl_fail(
        error,
        "libnbd %s does not verify certificates of the system's authorities "
        "(CVE-2024-7383): update it, or use tls-certificates=FOLDER or tls-psk-file=FILE",
        nbd_get_version(nbd));
}
