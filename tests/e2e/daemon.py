#!/usr/bin/env python3
"""Daemons in trouble: stopped, or started without standard descriptors; messages of clients."""
import concurrent.futures
import errno
import itertools
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
        """Clients time out, and the daemon continues when resumed."""
        with self.mount(self.image) as mount:
            os.kill(mount.pid, signal.SIGSTOP)
            try:
                # Mounting over it times out, too.
                with concurrent.futures.ThreadPoolExecutor(8) as pool:
                    for done in [pool.submit(self.assert_refused, word, mount.point, says=[
                            mount.point, "does not answer within", "kill -CONT"]) for word in
                            ("--status", "--status=json", "--abort", "--commit", "--rate=1M", self.image)]:
                        done.result()
            finally:
                os.kill(mount.pid, signal.SIGCONT)
            (folder,) = mount.folders()
            self.assertEqual(mount.read(f"{folder}/disk.raw", "rb")[:4], b"\5\5\5\5")

    def test_image_cut_off_while_mounted(self):
        """QEMU would read zeros past the end of the image or its backing file, and where it was cut off."""
        source = self.path("source.raw")
        with open(source, "wb") as f:
            f.write(self.rng.randbytes(4 * lib.MIB))
        for kind, again in itertools.product(("raw", "qcow2", "backing", "maps"), (False, True)):
            with self.subTest(kind, grows_again=again):
                image = mounted = self.path("cut.img")
                lib.run("qemu-img", "convert", "-f", "raw", "-O", "raw" if kind == "raw" else "qcow2",
                        source, image)
                if kind == "backing":
                    mounted = self.path("top.qcow2")
                    lib.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", image, "-F", "qcow2",
                            mounted)
                mount = self.mount(mounted, options=["-o", "readahead=0"])
                (folder,) = mount.folders()
                if kind != "maps":  # before they are loaded, else after
                    fd = os.open(mount / f"{folder}/disk.raw", os.O_RDONLY | os.O_DIRECT)
                    self.assertEqual(len(os.pread(fd, 65536, 0)), 65536)
                size = os.path.getsize(image)
                os.truncate(image, lib.MIB)
                if again:
                    os.truncate(image, size)
                if kind != "maps":
                    for offset in (3 * lib.MIB, 65536):
                        self.assert_errno(errno.EIO, os.pread, fd, 65536, offset)
                    os.close(fd)
                else:
                    self.assert_errno(errno.EIO, os.stat, mount / f"{folder}/disk.raw")
                (export,) = mount.json(".fleecefs/status.json")["exports"]
                self.assertIn(f"{image} was {'changed' if again else 'truncated'} while it was mounted",
                              export["failure"])
                mount.unmount()

    def test_abort_with_somebody_inside(self):
        """A shell in the tree and an open file block fusermount3, but not --abort."""
        mount = self.mount(self.image)
        (folder,) = mount.folders()
        inside = subprocess.Popen(["sh", "-c", "exec 3<disk.raw; echo ready; read x; cat <&3"],
                                  cwd=mount / folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, preexec_fn=lib.die_with_us)
        self.defer(inside.communicate)
        self.assertEqual(inside.stdout.readline(), b"ready\n")
        busy = lib.attempt("fusermount3", "-u", mount.point)
        self.assertIn("busy", busy.stderr)
        done = self.fleecefs("--abort", mount.point)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        mount.check_gone()
        # Processes inside get an error, and no data.
        said, why = inside.communicate(b"\n", timeout=lib.PATIENCE)
        self.assertEqual((said, inside.returncode), (b"", 1), why)

    def test_another_pid_namespace(self):
        """The pid in the status is another process there."""
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
        """Is notified of start and end, through a path or the abstract namespace."""
        for name in (self.path("notify"), f"\0fleecefs-test-{os.getpid()}"):
            point, seen = self.mkdir("mnt"), self.path("seen")
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
                manager.bind(name)
                manager.settimeout(lib.PATIENCE)
                # A private server must not notify.
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
        self.assertRegex(done.stderr, "cannot notify the service manager: .*nobody: No such file")


if __name__ == "__main__":
    lib.main()
