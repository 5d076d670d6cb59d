#!/usr/bin/env python3
"""Where messages go: stderr, or the journal with levels, as a service and in the background."""
import contextlib
import ctypes
import json
import os
import shutil
import socket
import subprocess

import lib
from nbdserver import Export, NbdServer

JOURNALD = "/lib/systemd/systemd-journald"
ERROR, WARNING, INFO = 3, 4, 6
# Ends the line, clears the screen, writes from right to left.
NAME = "vm\n<0>forged\033[2J\u202e"
SHOWN = "vm <0>forged?[2J?"


def private_journal():
    """Gives this program private copies of the journal's sockets, which have fixed paths."""
    def mount(source, target, kind, flags):
        if lib.libc.mount(source, target, kind, flags, None) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), target)

    lib.private_mounts()
    mount(b"journal", b"/run", b"tmpfs", 0)
    # /dev/log is missing without systemd: creates a /dev with the needed devices and this link.
    devices = "/run/dev"
    os.mkdir(devices)
    for name in ("null", "zero", "full", "random", "urandom", "fuse", "kmsg"):
        with contextlib.suppress(FileNotFoundError):
            number = os.stat("/dev/" + name)
            os.mknod(f"{devices}/{name}", number.st_mode, number.st_rdev)
            os.chmod(f"{devices}/{name}", number.st_mode & 0o777)
    os.symlink("/proc/self/fd", devices + "/fd")
    os.symlink("/run/systemd/journal/dev-log", devices + "/log")
    mount(devices.encode(), b"/dev", None, 4096)  # MS_BIND


class Messages(lib.TestCase):
    def setUp(self):
        super().setUp()
        lib.require(JOURNALD, "journalctl", "systemd-cat")
        if os.geteuid() != 0:
            self.skipTest("needs root")
        if not os.path.isdir("/run/dev"):
            private_journal()
        self.start_journal()
        self.server = NbdServer(self, {NAME: Export(4096, bytes(4096))})

    def start_journal(self):
        """Starts journald with an empty journal."""
        for folder in ("/run/log", "/run/systemd"):
            shutil.rmtree(folder, ignore_errors=True)
            os.mkdir(folder)
        os.mkdir("/run/log/journal")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.settimeout(lib.PATIENCE)
            notify.bind(self.path("notify"))
            daemon = subprocess.Popen([JOURNALD], stdin=subprocess.DEVNULL,
                                      stderr=subprocess.DEVNULL, preexec_fn=lib.die_with_us,
                                      env={**os.environ, "NOTIFY_SOCKET": notify.getsockname()})
            self.defer(daemon.wait)
            self.defer(daemon.kill)
            while b"READY=1" not in notify.recv(4096):
                pass

    def messages(self):
        """Returns the messages of fleecefs, as (priority, text)."""
        lib.run("journalctl", "--sync")
        said = lib.run("journalctl", "--no-pager", "-o", "json", "-D", "/run/log/journal",
                       "SYSLOG_IDENTIFIER=fleecefs")
        entries = [json.loads(line) for line in said.splitlines()]
        return [(int(entry["PRIORITY"]), entry["MESSAGE"]) for entry in entries]

    def lose(self, point):
        """Ends the server, and the export with it."""
        self.server.stop()
        export = next(name for name in os.listdir(point) if name != ".fleecefs")
        with self.assertRaises(OSError), open(f"{point}/{export}/disk.raw", "rb") as f:
            f.read()

    def test_background(self):
        """Errors go to stderr until the daemon is ready, then to the journal."""
        refused = self.fleecefs(self.server.uri("none"), self.mkdir("mnt"))
        self.assertRegex(refused.stderr, r"\Afleecefs: [^\n]+\n\Z")
        with self.mount(self.server.uri(), options=["-o", "reconnect=0"]) as mount:
            self.lose(mount.point)
        self.assertEqual(mount.output(), "")
        ((priority, text),) = self.messages()
        self.assertEqual(priority, WARNING)
        self.assertTrue(text.startswith(f'export "{SHOWN}" of '), text)

    def test_verbose(self):
        with self.mount(self.server.uri(), options=["-v", "-o", "reconnect=0"]) as mount:
            self.lose(mount.point)
        self.assertEqual({priority for priority, _ in self.messages()}, {WARNING, INFO})

    def run_service(self, *wrapper):
        """Runs in the foreground until its server is lost; returns its stderr."""
        point, pidfile = self.mkdir("mnt"), self.path("pid")
        process = subprocess.Popen([*wrapper, *lib.FLEECEFS, "-f", "-P", pidfile, "-o",
                                    "reconnect=0", self.server.uri(), point],
                                   stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.defer(process.wait)
        self.defer(process.kill)
        self.defer(lib.attempt, "umount", "-l", point)
        lib.wait_for_file(pidfile, process)
        self.lose(point)
        lib.run("fusermount3", "-u", point)
        said = process.communicate(timeout=lib.PATIENCE)[1]
        self.assertEqual(process.returncode, 0)
        return said

    def test_foreground(self):
        said = self.run_service()
        self.assertRegex(said, r"\Afleecefs: export \"[^\n]+\n\Z")
        self.assertIn(SHOWN, said)
        self.assertEqual(self.messages(), [])

    def test_service(self):
        """stderr is a journal stream, as systemd sets up for a service."""
        self.assertEqual(self.run_service("systemd-cat", "--identifier=fleecefs"), "")
        ((priority, text),) = self.messages()
        self.assertEqual(priority, WARNING)
        self.assertTrue(text.startswith(f'export "{SHOWN}" of '), text)

    def test_service_that_fails(self):
        done = lib.attempt("systemd-cat", "--identifier=fleecefs", *lib.FLEECEFS, "-f",
                           self.server.uri("none"), self.mkdir("mnt"))
        self.assertEqual(done.returncode, 1)
        ((priority, text),) = self.messages()
        self.assertEqual(priority, ERROR)
        self.assertIn("none", text)


if __name__ == "__main__":
    lib.main()
