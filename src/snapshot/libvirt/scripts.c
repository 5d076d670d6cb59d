/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "scripts.h"

/* Seconds without KEEP after which the storage daemon ends: the connection may break without the
 * other host noticing. */
#define KEPT_SECONDS "120"

/* Lists the files "$@", one line each. See Documentation/block/stat.rst of Linux for the numbers of
 * writes and discards. */
#define LIST                                                                                       \
    "for file; do\n"                                                                               \
    "    if [ -b \"$file\" ]; then\n"                                                              \
    "        n=$(stat -L -c %Hr:%Lr -- \"$file\")\n"                                               \
    "        read -r a b c d writes e f g h i j discards k </sys/dev/block/$n/stat &&\n"           \
    "            echo \"device $n $writes $discards\"\n"                                           \
    "    elif [ -f \"$file\" ]; then stat -L -c 'file %d:%i %s %.9Y %.9Z' -- \"$file\"\n"          \
    "    elif [ -e \"$file\" ]; then echo 'it is neither a file nor a block device'\n"             \
    "    else stat -L -- \"$file\"; fi\n"                                                          \
    "done 2>&1\n"

/* Ends the storage daemon of folder "$1", if it is ours, and waits for the folder's removal. */
#define END_DAEMON                                                                                 \
    "if [ -O \"$1\" ] && [ -p \"$1/life\" ]; then printf q 1<>\"$1/life\"; fi\n"                   \
    "i=0\n"                                                                                        \
    "while [ -e \"$1\" ] && [ $i -lt 100 ]; do sleep 0.05; i=$((i + 1)); done\n"

/* Portable to any sh(1), and the coreutils of any Linux that has libvirt. */
const char *const fl_remote_scripts[FL_N_SCRIPTS + 1] = {
    /* The socket of libvirtd or virtqemud; $1 is "system" or "session", $2 a socket to use instead.
     */
    [FL_SCRIPT_SOCKET] =
        "if [ -n \"$2\" ]; then printf %s \"$2\"; exit 0; fi\n"
        "if [ \"$1\" = session ]; then d=${XDG_RUNTIME_DIR:-/run/user/$(id "
        "-u)}/libvirt\nelse d=/run/libvirt; fi\nfor s in libvirt-sock virtqemud-sock; do\n  "
        "  if [ -S \"$d/$s\" ]; then printf %s \"$d/$s\"; exit 0; fi\ndone\necho \"no "
        "socket of libvirt in $d: check that libvirtd or virtqemud runs\" >&2\nexit 1",
    /* Fails with the reason why socket $1 cannot be forwarded; ssh is told none. */
    [FL_SCRIPT_WHY] = "if [ ! -S \"$1\" ]; then echo \"no socket $1: check that libvirtd runs\"\n"
                      "elif [ ! -w \"$1\" ]; then\n"
                      "    echo \"user $(id -un) has no access to $1: add the user to group\"\\\n"
                      "         \"$(stat -L -c %G -- \"$1\"), or log in as root\"\n"
                      "else\n"
                      "    echo \"nothing listens at $1, or sshd does not forward it\"\\\n"
                      "         '(AllowStreamLocalForwarding)'\n"
                      "fi >&2\n"
                      "exit 1",
    /* Creates folder $1 for user $2 and group $3. Root gives it away. Another user keeps it and
     * lets $2 in by an ACL; the socket that QEMU makes there with umask 002 gets the folder's
     * group, by which this user can connect. The other members of that group cannot enter the
     * folder. */
    [FL_SCRIPT_MAKE] =
        "umask 077; mkdir -- \"$1\" || exit 1\n"
        "me=$(id -u); [ \"$2\" -ge 0 ] && [ \"$me\" != \"$2\" ] || exit 0\n"
        "if [ \"$me\" = 0 ]; then chown -h -- \"$2:$3\" \"$1\"; exit; fi\n"
        "e=$( (chgrp -- \"$(id -g)\" \"$1\" && chmod 2700 -- \"$1\" &&\n"
        "      setfacl -m \"u:$2:rwx\" -- \"$1\") 2>&1) && exit\n"
        "rmdir -- \"$1\"\n"
        "a='install setfacl there (package acl), or log in as root'\n"
        "! command -v setfacl >/dev/null ||\n"
        "    a=\"choose one with ACLs (-o scratch=DIR), or log in as root: $e\"\n"
        "echo \"only an ACL lets the VM's process, of user $2, into a folder of user\"\\\n"
        "     \"$(id -un): $a\" >&2\n"
        "exit 1",
    [FL_SCRIPT_REMOVE] =
        "d=${1%/}\n"
        "case ${d##*/} in fleecefs-?*) ;; *) exit 1 ;; esac\n"
        "if [ \"$d\" = \"$1\" ]; then rm -f -- \"$1\"*\n"
        "elif [ -d \"$d\" ] && [ ! -L \"$d\" ]; then rm -f -- \"$d\"/* && rmdir -- \"$d\"; fi",
    /* Free space at $1, and space used by the files in folder $2 if that exists. */
    [FL_SCRIPT_ROOM] = "stat -f -c 'room %a %S' -- \"$1\" || exit 1\n"
                       "cd -- \"$2\" 2>/dev/null && stat -c 'used %b %B %n' -- * 2>/dev/null\n"
                       "exit 0",
    [FL_SCRIPT_FACTS] =
        "if [ -f \"$1\" ]; then stat -L -c 'file %i %.9W' -- \"$1\"\n"
        "elif [ -b \"$1\" ]; then\n"
        "    echo volume $(cat /sys/dev/block/$(stat -L -c %Hr:%Lr -- \"$1\")/dm/uuid)\n"
        "fi 2>/dev/null\n"
        "[ ! -f \"$1\" ] && [ ! -b \"$1\" ] || od -An -v -tx1 -N4096 -- \"$1\" 2>/dev/null\n"
        "exit 0",
    /* See proc(5). A connection is listed under the name of the socket it was made to. */
    [FL_SCRIPT_CLIENTS] = "grep -F -- \"$1\" /proc/net/unix | {\n"
                          "    listens=0 count=0\n"
                          "    while read -r a b c flags d e f path; do\n"
                          "        [ \"$path\" = \"$1\" ] || continue\n"
                          "        if [ \"$flags\" = 00010000 ]; then listens=1\n"
                          "        else count=$((count + 1)); fi\n"
                          "    done\n"
                          "    echo \"$listens $count\"\n"
                          "}",
    [FL_SCRIPT_LOOK] = LIST,
    /*
     * Runs a storage daemon in the new folder $1. It ends, and the folder is removed, when the
     * shell that runs this script has ended, which closes descriptor 9; when KEEP was not run for
     * too long; or by END. The inner subshell in the background sees to that.
     */
    [FL_SCRIPT_SERVE] =
        "{\n(\n"
        "    command -v qemu-storage-daemon >/dev/null || {\n"
        "        echo 'qemu-storage-daemon is not installed there, and the images of a VM'\\\n"
        "             'that is shut off are read with it (on Debian: qemu-system-common)'\n"
        "        exit 1\n"
        "    }\n" END_DAEMON "    umask 077\n"
        "    mkdir -- \"$1\" && mkfifo -- \"$1/life\"\n"
        ") && command exec 9<>\"$1/life\" && (\n"
        "    cd -- \"$1\" || exit 1\n"
        "    (\n"
        "        trap '' HUP INT PIPE TERM\n"
        "        exec 8<life 9>&-\n"
        "        {\n"
        "            sh -c 'echo $$ >pid; exec qemu-storage-daemon \"$@\"' sh \\\n"
        "                --chardev socket,id=qmp,path=qmp,server=on,wait=off \\\n"
        "                --monitor chardev=qmp --nbd-server \\\n"
        "                addr.type=unix,addr.path=new,max-connections=1000\n"
        "            echo >ended\n"
        "        } >said 2>&1 8<&- &\n"
        "        while [ ! -s pid ] && [ ! -e ended ]; do sleep 0.05; done\n"
        "        while [ ! -e ended ] && kept=$(timeout " KEPT_SECONDS " head -c 1 <&8) &&\n"
        "            [ \"$kept\" = . ]; do :; done\n"
        "        kill -9 \"$(cat pid)\"\n"
        "        wait\n"
        "        rm -f -- \"$1\"/*\n"
        "        rmdir -- \"$1\"\n"
        "    ) </dev/null >/dev/null 2>&1 &\n"
        "    i=0\n"
        "    while [ ! -S new ]; do\n"
        "        sleep 0.05\n"
        "        i=$((i + 1))\n"
        "        if [ -e ended ] || [ $i -gt 200 ]; then\n"
        "            echo \"qemu-storage-daemon does not start there: $(tail -n 1 said)\"\n"
        "            printf q >&9\n"
        "            exit 1\n"
        "        fi\n"
        "    done\n"
        ")\n}",
    [FL_SCRIPT_KEEP] =
        "if [ -p \"$1/life\" ] && [ ! -e \"$1/ended\" ] && (printf . >&9) 2>/dev/null; then\n"
        "    echo kept\nelse\n    echo ended\nfi\n"
        "shift\n" LIST,
    /* The server listens at $1/new, where nobody looks for it until it has its exports. */
    [FL_SCRIPT_READY] = "mv -- \"$1/new\" \"$1/nbd\"",
    [FL_SCRIPT_END] = END_DAEMON "[ ! -e \"$1\" ]",
    [FL_SCRIPT_RELAY] = "python3 -I - \"$@\" <<'END'\n"
#include "snapshot/relay-script.h"
                        "END",
};
