#!/usr/bin/env python3
"""--list: every mount, whatever state it is in; --status --watch."""
import errno
import json
import os
import pty
import signal
import subprocess

import disks
import lib
from nbdserver import Export, NbdServer


class List(lib.TestCase):
    def list(self, mounts, status=0):
        """The rows of MOUNTS, of those that others have made beside them."""
        done = lib.attempt(*lib.FLEECEFS, "--list=json")
        points = [m.point for m in mounts]
        rows = {row["mountpoint"]: row for row in json.loads(done.stdout)
                if row["mountpoint"] in points}
        self.assertEqual(len(rows), len(points))
        table = lib.attempt(*lib.FLEECEFS, "--list").stdout.splitlines()
        self.assertEqual(table[0].split(), ["MOUNTPOINT", "SOURCE", "SERIES", "AGE", "STATE"])
        for point in points:
            self.assertTrue([line for line in table if line.startswith(point + " ")], table)
        if status:
            self.assertEqual(done.returncode, status)
        return [rows[p] for p in points]

    def test_states(self):
        image = disks.create(self.path("a b.qcow2"), lib.MIB)
        server = NbdServer(self, {"": Export(4096, bytes(4096))})
        point = self.path("m\\n t")
        os.mkdir(point)
        with self.mount(image, point=point) as fine, \
                self.mount(server.uri(), options=["-o", "reconnect=0,timeout=2"]) as failed:
            dead = self.mount(image)
            dead.kill()
            server.stop()
            self.assert_errno(errno.EIO, failed.read, "default/disk.raw", "rb")
            ok, lost, gone = self.list([fine, failed, dead], status=1)
            self.assertEqual((ok["source"], ok["state"]), (image, "ok"))
            self.assertRegex(ok["since"], r"^\d{4}-\d\d-\d\dT")
            self.assertNotIn("series", ok)
            self.assertEqual(lost["state"], "failed")
            self.assertRegex(gone["state"], "^dead")
            self.assertNotIn("since", gone)
            os.kill(fine.pid, signal.SIGSTOP)
            self.defer(os.kill, fine.pid, signal.SIGCONT)
            (silent,) = self.list([fine])
            self.assertEqual(silent["state"], "does not answer")
            os.kill(fine.pid, signal.SIGCONT)
            lib.run("umount", "-l", dead.point)

    def test_usage(self):
        self.assert_refused("--list", "x", status=2, says=["--list takes no argument"])
        self.assert_refused("--list=yaml", status=2, says=["=json"])
        self.assert_refused("--watch", "a", "b", status=2, says=["--watch is for --status"])
        self.assert_refused("--status=json", "--watch", "b", status=2, says=["--watch is for"])

    def watch(self, mount, env):
        """The master's side of a terminal on which --watch runs, and the process."""
        ours, theirs = pty.openpty()
        process = subprocess.Popen([*lib.FLEECEFS, "--status", "--watch", mount.point],
                                   stdin=subprocess.DEVNULL, stdout=theirs,
                                   env={**os.environ, "TERM": "xterm", "NO_COLOR": "", **env})
        self.defer(process.kill)
        os.close(theirs)
        return ours, process

    def read_until(self, fd, *words):
        said = b""
        while not all(word in said for word in words):
            said += os.read(fd, 65536)
        return said

    def test_watch(self):
        image = disks.create(self.path("vm.qcow2"), lib.MIB)
        disks.qemu_io(image, ["write -q 0 1M"])
        with self.mount(image) as mount:
            (vm,) = mount.folders()
            plain, other = self.watch(mount, {"NO_COLOR": "1"})
            ours, process = self.watch(mount, {})
            said = self.read_until(ours, b"\033[32mok\033[0m", b"not known yet")
            self.assertTrue(said.startswith(b"\033[H"))
            self.assertNotIn(b"\033[3", self.read_until(plain, b"not known yet"))
            # What changes is shown.
            mount.read(vm + "/disk.raw", "rb")
            self.read_until(ours, b"100%", b"1.0 MiB of 1.0 MiB read")
            # Not by fusermount3: while --watch reads the status, the mount is busy.
            self.fleecefs("--abort", mount.point)
        # It ends with the mount.
        for fd, watcher in ((ours, process), (plain, other)):
            try:
                while os.read(fd, 65536):
                    pass
            except OSError as error:
                self.assertEqual(error.errno, errno.EIO)
            self.assertEqual(watcher.wait(lib.PATIENCE), 0)
            os.close(fd)


if __name__ == "__main__":
    lib.main()
