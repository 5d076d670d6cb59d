#!/usr/bin/env python3
"""Completion in bash and zsh: the options in --help, mounts, domains, files."""
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios

import disks
import lib

FOLDER = lib.TOP + "/contrib/completions/"
PROGRAMS = ("fleecefs", "fleecefs-backup", "fleecefs-restore", "fleecefs-map")


class Completion(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.env = {**self.environment(), "LC_ALL": "C.UTF-8", "TERM": "dumb"}
        self.bin = self.env["PATH"].split(":")[0]
        with open(self.bin + "/virsh", "w") as f:
            f.write("#!/bin/sh\nprintf 'web\\ndb one\\n\\n'\n")
        os.chmod(self.bin + "/virsh", 0o755)
        os.mkdir(self.dir + "/work")
        for name in ("vm.qcow2", "vmlinuz"):
            open(f"{self.dir}/work/{name}", "w").close()

    def helped(self, program):
        """Returns all options in PROGRAM's --help, without '='."""
        said = lib.run(program, "--help", env=self.env)
        return set(re.findall(r"(?<![\w-])(--?[a-zA-Z][\w-]*)",
                              re.split("(?mi)^options:$", said)[-1]))

    def mounted(self):
        image = disks.create(os.path.join(self.dir, "vm.qcow2"), size="1M")
        return self.mount(image, point=self.mkdir("m n"))


class Bash(Completion):
    def complete(self, line):
        """Returns bash's completions of the last word of LINE."""
        script = """
            source "$1"
            line=$2
            # As readline splits it: at blanks, and ':' and '=' are words.
            read -ra COMP_WORDS <<<"$(sed 's/[:=]/ & /g' <<<"$line")"
            [[ $line == *[' :='] && $line != *[:=] ]] && COMP_WORDS+=('')
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_LINE=$line COMP_POINT=${#line}
            compopt() { [[ $2 != default ]] || FILES=1; }
            "$(complete -p "${COMP_WORDS[0]}" | sed 's/.*-F \\([^ ]*\\) .*/\\1/')" \
                "${COMP_WORDS[0]}" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
            printf '%s\\n' "${COMPREPLY[@]}" ${FILES:+FILES}
            """
        said = lib.run("bash", "-c", script, "bash", FOLDER + "fleecefs", line, env=self.env)
        return set(filter(None, said.split("\n")))

    def test_options(self):
        for program in PROGRAMS:
            found = {w.rstrip("=") for w in self.complete(program + " -")}
            self.assertEqual(found, self.helped(program), program)
        self.assertEqual(self.complete("fleecefs --conn"), {"--connections="})
        names = {w.rstrip("=") for w in self.complete("fleecefs -o ")}
        self.assertLessEqual({"allow_other", "series", "agent_optional"}, names)
        self.assertEqual(self.complete("fleecefs -o ro,sc"), {"ro,scratch=", "ro,scratch_encrypt"})
        self.assertEqual(self.complete("fleecefs -o cache=1M,timeo"), {"1M,timeout="})
        self.assertEqual(self.complete("fleecefs-backup -o rate=/x"), {"FILES"})
        # fleecefs accepts all of them.
        for name in names:
            said = lib.attempt(*lib.FLEECEFS, "-o", name + "1" * name.endswith("="), "--help").stderr
            self.assertNotIn("unknown option", said)

    def test_arguments(self):
        self.assertEqual(self.complete("fleecefs libvirt:"), {"web", "db one"})
        self.assertEqual(self.complete("fleecefs libvirt:w"), {"web"})
        self.assertEqual(self.complete("fleecefs "), {"qmp:", "libvirt:", "backup:", "FILES"})
        self.assertEqual(self.complete("fleecefs qmp:"), {"FILES"})
        self.assertEqual(self.complete("fleecefs --agent=/x"), {"FILES"})
        self.assertEqual(self.complete("fleecefs-backup "),
                         {"rsync", "qcow2", "raw", "tar", "restic", "borg"})
        self.assertEqual(self.complete("fleecefs-backup --quiet t"), {"tar"})
        self.assertEqual(self.complete("fleecefs-backup --keep t"), {"FILES"})
        self.assertEqual(self.complete("fleecefs-backup qcow2 "), {"qmp:", "libvirt:", "FILES"})
        self.assertEqual(self.complete("fleecefs-restore -O "), {"qcow2", "raw"})
        self.assertEqual(self.complete("fleecefs-restore "), {"FILES"})
        with self.mounted() as mount:
            self.assertIn(mount.point, self.complete("fleecefs --commit "))
            self.assertIn(mount.point, self.complete("fleecefs --status=json "))

    def test_interactive(self):
        """With the Tab key, in a real shell."""
        shell = Terminal(self, ["bash", "--norc", "-i"])
        shell.type(f"cd {self.dir}/work; source {FOLDER}fleecefs; PS1='ready> '\n", "\nready> ")
        shell.type("echo; fleecefs --cluster\t", "--cluster_size=")
        shell.type("\x15", "")
        shell.type("fleecefs vm.\t", r"vm\.qcow2 ")
        shell.type("\x15", "")
        shell.type("fleecefs libvirt:w\t", "libvirt:web ")
        shell.type("\x15", "")
        with self.mounted() as mount:
            shell.type(f"fleecefs --status {mount.point[:-2]}\t", mount.point.replace(" ", r"\\ "))


class Zsh(Completion):
    def setUp(self):
        super().setUp()
        lib.require("zsh")
        self.shell = Terminal(self, ["zsh", "-f", "-i"])
        self.shell.type(f"cd {self.dir}/work; fpath=({FOLDER} $fpath); autoload -Uz compinit; "
                        f"compinit -u -d {self.dir}/dump; LISTMAX=1000; unsetopt zle_bracketed_paste;"
                        "PS1='ready> '; echo begin\n", "begin\r*\n.*ready> ")

    def complete(self, line, expected):
        self.shell.type("\x15", "")
        return self.shell.type(line + "\t", expected)

    def test_options(self):
        for program in PROGRAMS:
            long = {o for o in self.helped(program) if o.startswith("--")}
            said = self.complete(program + " --", sorted(long)[-1] + r"\b(?s:.*)ready> ")
            self.assertEqual(set(re.findall(r"(?<![\w-])--[a-z][\w-]*", said)), long, program)
        self.complete("fleecefs --cluster", "--cluster_size=")
        self.complete("fleecefs -o ro,seri", "ro,series=")

    def test_arguments(self):
        self.complete("fleecefs vm.", r"vm\.qcow2 ")
        self.complete("fleecefs libvirt:w", "libvirt:web ")
        self.complete("fleecefs-backup bo", "borg ")
        with self.mounted() as mount:
            self.complete(f"fleecefs --commit {mount.point[:-2]}", mount.point.replace(" ", r"\\ "))
            self.complete(f"fleecefs --status=json {mount.point[:-2]}", mount.point.replace(" ", r"\\ "))
        self.complete("fleecefs-backup --quiet ta", "tar ")
        self.complete("fleecefs-restore -O qc", "qcow2 ")


class Terminal:
    """A shell on a pseudo-terminal."""

    def __init__(self, test, argv):
        self.fd, theirs = pty.openpty()
        # A line that is too long for the terminal would be scrolled.
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 200, 500, 0, 0))
        self.process = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs,
                                        env=test.env, preexec_fn=lib.die_with_us,
                                        start_new_session=True)
        os.close(theirs)
        self.test = test
        test.defer(self.end)

    def end(self):
        self.process.kill()
        self.process.wait(lib.PATIENCE)
        os.close(self.fd)

    def type(self, keys, expected):
        """Types KEYS, waits until the shell's output matches EXPECTED, and returns it."""
        said = ""
        os.write(self.fd, keys.encode())
        while not re.search(expected, said):
            if not select.select([self.fd], [], [], lib.PATIENCE)[0]:
                self.test.fail(f"{expected} not in {said!r}")
            said += os.read(self.fd, 65536).decode(errors="replace")
        return said


if __name__ == "__main__":
    lib.main()
