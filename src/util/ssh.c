/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Daemon side. */
#include "util/ssh.h"

#include "ssh-life.h"
#include "util/deadline.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

/* Added to the process's own timeouts: it connects, then serves the request. */
#define MORE_SECONDS 5

struct FlSsh {
    int channel;
    unsigned seconds;
    char *folder;
    GPtrArray *sockets; /* of char *: paths here */
    char *message;      /* FL_SSH_MESSAGE bytes */
    uint32_t number;    /* of the last request */
    uint32_t asked;     /* of fl_ssh_ask(); 0: none pending */
};

bool fl_ssh_can_forward(const char *path)
{
    return path[0] == '/' && strlen(path) < PATH_MAX && strpbrk(path, ":\\%$~\"'") == NULL &&
           g_utf8_validate(path, -1, NULL) && strpbrk(path, " \t\r\n") == NULL;
}

static char **words(const FlSshSpec *spec, const char *const *first, const char *const *options,
                    const char *last, unsigned *slot)
{
    g_autoptr(GPtrArray) argv = g_ptr_array_new();

    for (; *first != NULL; first++) {
        if (slot != NULL && **first == '\0')
            *slot = argv->len;
        g_ptr_array_add(argv, g_strdup(*first));
    }
    for (; options != NULL && *options != NULL; options++)
        g_ptr_array_add(argv, g_strdup(*options));
    g_ptr_array_add(argv, g_strdup("--"));
    g_ptr_array_add(argv, g_strdup(spec->host));
    if (last != NULL)
        g_ptr_array_add(argv, g_strdup(last));
    g_ptr_array_add(argv, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&argv), FALSE);
}

/* ssh uses the first value of an option, so ours come before the user's. */
static void make_words(FlSshLife *life, const FlSshSpec *spec)
{
    g_autofree char *timeout = g_strdup_printf("-oConnectTimeout=%u", spec->seconds);
    const char *const master[] = {
        spec->program, "-T", "-a", "-x", "-S", life->control, "-oBatchMode=yes",
        "-oControlPersist=no", "-oControlMaster=yes", "-oForkAfterAuthentication=no",
        /* We need its standard input, a remote shell, and its messages. */
        "-oStdinNull=no", "-oSessionType=default", "-oLogLevel=INFO",
        /* Forwardings in ssh_config(5) are meant for interactive logins. */
        "-oClearAllForwardings=yes", "-oExitOnForwardFailure=yes", "-oRemoteCommand=none",
        "-oPermitLocalCommand=no", "-oServerAliveInterval=5", "-oServerAliveCountMax=3",
        "-oStreamLocalBindMask=0177", "-oStreamLocalBindUnlink=yes", timeout, NULL};
    const char *const forward[] = {
        spec->program, "-F",      "none", "-S", life->control, "-oBatchMode=yes",
        "-O",          "forward", "-L",   "",   NULL};

    life->master = words(spec, master, spec->options, "exec sh -s", NULL);
    life->forward = words(spec, forward, NULL, NULL, &life->slot);
}

static void clear_life(FlSshLife *life)
{
    if (life->channel >= 0)
        close(life->channel);
    g_free(life->program);
    g_free(life->folder);
    g_free(life->control);
    g_strfreev(life->master);
    g_strfreev(life->forward);
    g_free(life->forwards);
    g_free(life->message);
    g_free(life->output);
    g_free(life->text);
}

/* ssh first creates the socket under a longer temporary name. */
#define FOLDER "fleecefs-ssh-XXXXXX"
#define LONGEST                                                                                    \
    (sizeof((struct sockaddr_un *)NULL)->sun_path - sizeof "/" FOLDER "/control.0123456789abcdef")

static bool prepare(FlSshLife *life, const FlSshSpec *spec, GError **error)
{
    const char *parent = g_get_tmp_dir();
    g_autofree char *template = NULL;

    if (!fl_ssh_can_forward(parent) || strlen(parent) > LONGEST)
        parent = "/tmp";
    template = g_build_filename(parent, FOLDER, NULL);
    life->program = g_find_program_in_path(spec->program);
    if (life->program == NULL)
        return fl_fail(error, "%s: no such program; install openssh-client", spec->program);
    if (g_mkdtemp(template) == NULL)
        return fl_fail(error, "cannot create a folder in %s: %s", parent, g_strerror(errno));
    life->folder = g_steal_pointer(&template);
    life->control = g_build_filename(life->folder, "control", NULL);
    life->scripts = spec->scripts;
    life->n_scripts = g_strv_length((char **)spec->scripts);
    life->seconds = spec->seconds;
    life->pidfd = life->errors = life->in = life->out = -1;
    g_snprintf(life->mark, sizeof life->mark, "fleecefs-%08x%08x", g_random_int(), g_random_int());
    life->forwards = g_malloc0(FL_SSH_FORWARDS * sizeof *life->forwards);
    life->message = g_malloc(FL_SSH_MESSAGE);
    life->output = g_malloc(FL_SSH_MESSAGE);
    life->text = g_malloc(FL_SSH_MESSAGE);
    make_words(life, spec);
    return true;
}

/* Returns our end of the channel, or -1. */
static int start(FlSshLife *life, GError **error)
{
    int pair[2], room = FL_SSH_MESSAGE * 2, status = 0;
    pid_t child;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
        fl_fail(error, "cannot create a socket: %s", g_strerror(errno));
        return -1;
    }
    for (int i = 0; i < 2; i++)
        setsockopt(pair[i], SOL_SOCKET, SO_SNDBUF, &room, sizeof room);
    life->channel = pair[1];
    child = fork();
    if (child == 0) {
        /* Fork twice: init reaps it. */
        child = fork();
        if (child == 0)
            fl_ssh_live(life);
        _exit(child < 0 ? errno : 0);
    }
    if (child < 0)
        status = errno;
    else {
        while (waitpid(child, &status, 0) < 0 && errno == EINTR)
            ;
        status = WEXITSTATUS(status);
    }
    if (status == 0)
        return pair[0];
    fl_fail(error, "cannot start a process: %s" FL_LIMITS, g_strerror(status));
    close(pair[0]);
    return -1;
}

FlSsh *fl_ssh_start(const FlSshSpec *spec, GError **error)
{
    FlSshLife life = {.channel = -1};
    FlSsh *ssh = NULL;
    int channel = prepare(&life, spec, error) ? start(&life, error) : -1;

    if (channel >= 0) {
        ssh = g_new0(FlSsh, 1);
        ssh->channel = channel;
        ssh->seconds = spec->seconds;
        ssh->folder = g_strdup(life.folder);
        ssh->sockets = g_ptr_array_new_with_free_func(g_free);
        ssh->message = g_malloc(FL_SSH_MESSAGE);
    } else if (life.folder != NULL) {
        rmdir(life.folder);
    }
    clear_life(&life);
    return ssh;
}

void fl_ssh_free(FlSsh *ssh)
{
    struct pollfd fd = {.events = POLLIN};

    if (ssh == NULL)
        return;
    fd.fd = ssh->channel;
    shutdown(ssh->channel, SHUT_WR);
    /* Discard answers until the process closes its end. */
    for (gint64 end = fl_deadline_in(MORE_SECONDS); fl_deadline_left(end) > 0;) {
        if (poll(&fd, 1, fl_deadline_poll(end)) > 0 &&
            recv(ssh->channel, ssh->message, FL_SSH_MESSAGE, MSG_DONTWAIT) <= 0)
            break;
    }
    close(ssh->channel);
    g_free(ssh->folder);
    g_free(ssh->message);
    g_ptr_array_unref(ssh->sockets);
    g_free(ssh);
}

/* Returns the request's number; 0 if the process has ended. */
static uint32_t send_question(FlSsh *ssh, uint8_t what, unsigned script, const char *const *args)
{
    g_autoptr(GByteArray) message = g_byte_array_new();
    FlSshHead head = {.number = ++ssh->number, .what = what, .script = (uint8_t)script};

    g_byte_array_set_size(message, sizeof head);
    for (; args != NULL && *args != NULL; args++, head.count++)
        g_byte_array_append(message, (const guint8 *)*args, (guint)strlen(*args) + 1);
    memcpy(message->data, &head, sizeof head);
    /* If the process is stopped, unread questions fill the socket. */
    return send(ssh->channel, message->data, message->len, MSG_NOSIGNAL | MSG_DONTWAIT) ==
                   (ssize_t)message->len
               ? head.number
               : 0;
}

/* Returns the answer to request NUMBER, or NULL if none arrives before END (0: does not wait).
 * OK: whether the request succeeded. GONE: whether the process has ended. */
static char *receive(FlSsh *ssh, uint32_t number, gint64 end, bool *ok, bool *gone)
{
    struct pollfd fd = {.fd = ssh->channel, .events = POLLIN};

    *gone = false;
    for (;;) {
        int r = poll(&fd, 1, fl_deadline_poll(end));
        FlSshHead head;
        ssize_t n;

        if (r < 0 && errno == EINTR)
            continue;
        if (r == 0)
            return NULL;
        n = recv(ssh->channel, ssh->message, FL_SSH_MESSAGE, MSG_DONTWAIT);
        *gone = n < (ssize_t)sizeof head;
        if (*gone)
            return NULL;
        memcpy(&head, ssh->message, sizeof head);
        if (head.number != number)
            continue;
        *ok = head.what != 0;
        return g_strndup(ssh->message + sizeof head, (gsize)n - sizeof head);
    }
}

/* Returns the last line that ssh wrote, preceded by lines about changed host keys. */
static char *summary(const char *text)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    g_autofree char *found = g_strdup(""), *all = NULL;
    const char *last = "it ended without a message";

    for (char **line = lines; *line != NULL; line++) {
        g_strdelimit(g_strstrip(*line), "@\r", ' ');
        g_strstrip(*line);
        if (**line == '\0')
            continue;
        g_debug("ssh: %s", *line);
        last = *line;
        if (strstr(last, "IDENTIFICATION HAS CHANGED") != NULL ||
            strstr(last, "Offending") != NULL) {
            char *more = g_strconcat(found, last, "; ", NULL);
            g_free(found);
            found = more;
        }
    }
    all = g_strconcat(found, last, NULL);
    return g_utf8_make_valid(all, -1);
}

static char *ask(FlSsh *ssh, uint8_t what, unsigned script, const char *const *args, GError **error)
{
    uint32_t number = send_question(ssh, what, script, args);
    bool ok = false, gone = number == 0;
    g_autofree char *text =
        gone ? NULL
             : receive(ssh, number, fl_deadline_in((guint64)ssh->seconds * 2 + MORE_SECONDS), &ok,
                       &gone);
    g_autofree char *said = NULL;

    ssh->asked = 0;
    if (text != NULL && ok)
        return g_steal_pointer(&text);
    said = text != NULL ? summary(text) : NULL;
    fl_fail(error, "%s",
            said != NULL ? said
            : gone       ? "the process that runs ssh has ended"
                         : "no answer in time (-o timeout=)");
    return NULL;
}

const char *fl_ssh_forward(FlSsh *ssh, const char *name, const char *path, GError **error)
{
    g_autofree char *here = g_build_filename(ssh->folder, name, NULL);
    const char *const args[] = {here, path, NULL};
    g_autofree char *answer = NULL;

    if (!fl_ssh_can_forward(path)) {
        fl_fail(error, "%s: ssh cannot forward a socket with this name", path);
        return NULL;
    }
    answer = ask(ssh, FL_SSH_FORWARD, 0, args, error);
    if (answer == NULL)
        return NULL;
    g_ptr_array_add(ssh->sockets, g_steal_pointer(&here));
    return ssh->sockets->pdata[ssh->sockets->len - 1];
}

void fl_ssh_seal(FlSsh *ssh)
{
    g_free(ask(ssh, FL_SSH_SEAL, 0, NULL, NULL));
}

char *fl_ssh_run(FlSsh *ssh, unsigned script, const char *const *args, GError **error)
{
    return ask(ssh, FL_SSH_RUN, script, args, error);
}

void fl_ssh_ask(FlSsh *ssh, unsigned script, const char *const *args)
{
    ssh->asked = send_question(ssh, FL_SSH_RUN, script, args);
}

char *fl_ssh_take(FlSsh *ssh, bool *done)
{
    bool ok = false, gone = false;
    g_autofree char *text = ssh->asked != 0 ? receive(ssh, ssh->asked, 0, &ok, &gone) : NULL;

    *done = ssh->asked == 0 || text != NULL || gone;
    if (*done)
        ssh->asked = 0;
    return ok ? g_steal_pointer(&text) : NULL;
}

char *fl_ssh_complaint(FlSsh *ssh)
{
    g_autofree char *text = ask(ssh, FL_SSH_COMPLAINT, 0, NULL, NULL);
    g_auto(GStrv) lines = g_strsplit(text != NULL ? text : "", "\n", -1);
    guint n = g_strv_length(lines);

    /* The last line may come from the login shell. */
    while (n > 0) {
        if (strstr(lines[--n], FL_SSH_REFUSED) != NULL)
            return summary(lines[n]);
    }
    return text != NULL && *text != '\0' ? summary(text) : NULL;
}
