#!/usr/bin/env python3
"""Daemons in trouble: stopped, started without standard descriptors; what their clients say."""
import os
import signal
import socket
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

    def test_service_manager(self):
        """Told when the tree answers and when it ends, by a path or in the abstract namespace."""
        for name in (self.path("notify"), f"\0fleecefs-test-{os.getpid()}"):
            point, seen = self.mkdir("mnt"), self.path("seen")
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
                manager.bind(name)
                manager.settimeout(lib.PATIENCE)
                # A server of ours is not the service.
                process = subprocess.Popen(
                    [*lib.FLEECEFS, "-f", "[", "sh", "-c",
                     'echo "$NOTIFY_SOCKET" >"$0"; exec nbdkit memory 1M', seen, "]", point],
                    env={**os.environ, "NOTIFY_SOCKET": name.replace("\0", "@")})
                self.defer(lib.attempt, "umount", "-l", point)
                self.defer(process.kill)
                self.assertEqual(manager.recv(100), b"READY=1")
                self.assertTrue(os.path.exists(point + "/default/disk.raw"))
                process.send_signal(signal.SIGTERM)
                self.assertEqual(manager.recv(100), b"STOPPING=1")
                self.assertEqual(process.wait(lib.PATIENCE), 0)
                with open(seen) as f:
                    self.assertEqual(f.read(), "\n")

    def test_service_manager_that_is_not_there(self):
        done = lib.attempt(*lib.FLEECEFS, "-f", "nosuch", self.mkdir("mnt"),
                           env={**os.environ, "NOTIFY_SOCKET": self.path("nobody")})
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, "the service manager cannot be told: .*nobody: No such file")


if __name__ == "__main__":
    lib.main()
