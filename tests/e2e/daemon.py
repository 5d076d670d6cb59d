#!/usr/bin/env python3
"""Daemons in trouble: stopped, started without standard descriptors; what their clients say."""
import os
import signal
import subprocess

import lib


class Daemon(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.image = self.path("disk.raw")
        with open(self.image, "wb") as f:
            f.write(b"\5" * lib.MIB)

    def test_stopped_daemon(self):
        """Nobody waits for it for good, and it goes on where it was."""
        with self.mount(self.image) as mount:
            os.kill(mount.pid, signal.SIGSTOP)
            try:
                for command in ("--status", "--status=json", "--abort", "--commit"):
                    self.assert_refused(command, mount.point,
                                        says=[mount.point, "does not answer within", "kill -CONT"])
            finally:
                os.kill(mount.pid, signal.SIGCONT)
            (folder,) = mount.folders()
            self.assertEqual(mount.read(f"{folder}/disk.raw", "rb")[:4], b"\5\5\5\5")

    def test_another_pid_namespace(self):
        """The number in the status is somebody else's there."""
        mount = self.mount(self.image)
        done = lib.attempt("unshare", "--pid", "--fork", "--mount-proc", "--propagation", "unchanged",
                           "sh", "-c", 'sleep 1000 & exec "$@"', "sh", *lib.FLEECEFS, "--abort",
                           mount.point)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        mount.check_gone()

    def test_closed_descriptors(self):
        for closed in ("<&-", "<&- >&-", "<&- >&- 2>&-"):
            with self.subTest(closed=closed):
                point, pidfile = self.mkdir("mnt"), self.path("pid")
                self.defer(lib.attempt, "umount", "-l", point)
                done = subprocess.run(
                    ["sh", "-c", f'exec "$@" {closed}', "sh", *lib.FLEECEFS, "-P", pidfile,
                     self.image, point], stdin=subprocess.DEVNULL, timeout=lib.PATIENCE)
                self.assertEqual(done.returncode, 0)
                (folder,) = (n for n in os.listdir(point) if n != ".fleecefs")
                with open(f"{point}/{folder}/disk.raw", "rb") as f:
                    self.assertEqual(f.read(4), b"\5\5\5\5")
                self.assertEqual(self.fleecefs("--abort", point).returncode, 0)
                self.assertFalse(lib.is_mounted(point))


if __name__ == "__main__":
    lib.main()
