#!/usr/bin/env python3
"""--list of mounts in any state; --status --watch."""
import errno
import json
import os
import pty
import signal
import subprocess

import disks
import lib
from nbdserver import Export, NbdServer


def zombies(pid):
    """Returns children of PID that have ended but have not been reaped."""
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        children = f.read().split()
    found = []
    for child in children:
        try:
            with open(f"/proc/{child}/stat") as f:
                found += [child] if f.read().rpartition(")")[2].split()[0] == "Z" else []
        except FileNotFoundError:
            pass
    return found


def setUpModule():
    lib.private_mounts()  # for --list


class List(lib.TestCase):
    def list(self, mounts, status=0):
        """Returns the rows of MOUNTS; ignores mounts of others."""
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
            with self.mount(os.path.relpath(image)) as relative:
                self.assertEqual(self.list([relative])[0]["source"], image)
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
        self.assert_refused("--watch", "a", "b", status=2, says=["--watch requires --status"])
        for words in (["--watch", "a"], ["--watch"], ["--status=json", "--watch", "b"]):
            self.assert_refused(*words, status=2, says=["--watch requires --status",
                                                        "fleecefs --status --watch MOUNTPOINT"])
        for words in (["--status", "a"], ["--abort", "a"], ["--list"]):
            self.assert_refused("--rate=1M", *words, status=2, says=["fleecefs --rate=SIZE MOUNTPOINT"])
        for words in (["--force", "a"], ["--force"], ["--abort", "--force", "a"]):
            self.assert_refused(*words, status=2, says=["--force requires --commit",
                                                        "fleecefs --commit --force MOUNTPOINT"])

    def watch(self, mount, env):
        """Runs --watch on a pseudo-terminal; returns its master side and the process."""
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
            # Changes are shown.
            mount.read(vm + "/disk.raw", "rb")
            self.read_until(ours, b"100%", b"1.0 MiB of 1.0 MiB read")
            # The processes that read the status for each page are reaped.
            for _ in range(2):
                self.read_until(ours, b"\033[H")
            self.assertLess(len(zombies(process.pid)), 2)
            # Not with fusermount3: while --watch reads the status, the mount is busy.
            self.fleecefs("--abort", mount.point)
        # --watch ends with the mount.
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
