#!/usr/bin/env python3
"""Random rounds of write, mount, back up and any kind of end: every committed backup restores the disks'
contents, and nothing is left in the VM."""
import collections
import os
import signal
import subprocess
import time

import lib
from qmp_mount import Chain
from vm import Disk, Vm

ROUNDS = int(os.environ.get("ROUNDS", "15"))
# How a round ends, with weights.
ENDS = {"commit": 6, "abort": 2, "unmount": 2, "signal": 2, "killed": 3, "killed-beginning": 4,
        "killed-ending": 4, "qemu-quits": 1, "qemu-killed": 1}


class Rounds(lib.TestCase):
    def setUp(self):
        super().setUp()
        lib.require("ddrescue")
        self.vm = Vm(self, [Disk(self, "vda"), Disk(self, "vdb", kind="raw"),
                            Disk(self, "vdc", kind="data-file"), Disk(self, "vdd", style="drive")])
        self.scratch, self.point = self.mkdir("scratch"), self.mkdir("mnt")
        self.chains = {name: Chain(self, name) for name in self.vm.disks}
        self.committed = None  # id of the last restore point
        self.options = ["-o", "scratch=" + self.scratch]

    def traces(self):
        """Returns everything that a backup could leave in QEMU and on the host."""
        vm, fds = self.vm, f"/proc/{self.vm.process.pid}/fd"
        links = [os.readlink(f"{fds}/{fd}") for fd in os.listdir(fds)]
        return {
            "nodes": sorted(n["node-name"] for n in vm.qmp("query-named-block-nodes", flat=True)
                            if not n["node-name"].startswith("#")),
            "number of nodes": len(vm.qmp("query-named-block-nodes", flat=True)),
            "jobs": vm.qmp("query-jobs"),
            "exports": vm.qmp("query-block-exports"),
            "bitmaps": sorted(name for _, name in vm.bitmaps()
                              if not name.startswith(("fleecefs.last.", "fleecefs-disk.last.",
                                                        "fleecefs-check.last."))),
            "files of QEMU": sorted(x for x in links if self.scratch in x),
            "scratch": os.listdir(self.scratch),
            "other": vm.leftovers(),
        }

    def mount_it(self):
        return self.mount("qmp:" + self.vm.monitor, env=self.vm.environment(),
                          options=self.options, point=self.point)

    def clear_mount(self):
        """Removes a mount whose daemon was killed."""
        if lib.is_mounted(self.point):
            lib.run("fusermount3", "-u", self.point)

    def recover(self):
        lib.run(*lib.FLEECEFS, "--recover", "qmp:" + self.vm.monitor, env=self.vm.environment())

    def kill_while_beginning(self):
        with subprocess.Popen([*lib.FLEECEFS, "-f", *self.options, "qmp:" + self.vm.monitor,
                               self.point], env=self.vm.environment(), stderr=subprocess.DEVNULL,
                              preexec_fn=lib.die_with_us) as process:
            time.sleep(self.rng.random() * 0.25)  # at a random moment
            process.kill()
        self.clear_mount()

    def end(self, how, mount):
        """Ends a mount without a commit."""
        vm = self.vm
        if how == "abort":
            done = self.fleecefs("--abort", mount.point)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
        elif how == "unmount":
            mount.unmount()
        elif how == "signal":
            os.kill(mount.pid, self.rng.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP)))
        elif how == "killed":
            mount.kill()
            self.clear_mount()
        elif how.startswith("qemu"):
            for name in vm.disks:
                vm.io(name, "flush")  # as a guest does; else QEMU's cached writes are lost
            if how == "qemu-quits":
                vm.quit()
            else:
                vm.kill()
            done = self.fleecefs("--abort", mount.point)
            self.assertEqual(done.returncode, 3, done.stderr)
            vm.start()
        if how != "killed":
            mount.check_gone()

    def commit(self, mount, killed):
        """Runs --commit, perhaps killing the daemon; returns whether it was committed."""
        points = {n: mount.json(f"{n}/info.json")["restore_point"] for n in self.vm.disks}
        argv = [*lib.FLEECEFS, "--commit", mount.point]
        if not killed:
            lib.run(*argv)
            mount.check_gone()
            self.committed = points
            return True
        with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as client:
            time.sleep(self.rng.random() * 0.15)
            mount.kill()
        self.clear_mount()
        self.recover()
        # One transaction for all disks: all or none.
        there = [p for found in self.vm.points().values() for p in found]
        found = {any(p.endswith(point) for p in there) for point in points.values()}
        self.assertEqual(len(found), 1, there)
        if found == {True}:
            self.committed = points
        self.assertTrue(client.returncode != 0 or found == {True}, "reported as committed, but is not")
        return found == {True}

    def round(self, how):
        vm = self.vm
        vm.scribble(self.rng, self.rng.randrange(4))
        expected = {name: bytes(disk.model) for name, disk in vm.disks.items()}
        if how == "killed-beginning":
            self.kill_while_beginning()
            vm.scribble(self.rng, 1)
            return how
        mount = self.mount_it()
        vm.scribble(self.rng, 2)
        backups = {}
        for name, chain in self.chains.items():
            info = mount.json(f"{name}/info.json")
            if info["mode"] == "incremental":
                self.assertEqual(info["base"], self.committed[name])
            backups[name] = chain.copy(mount)
            chain.check(backups[name], expected[name])
        if how not in ("commit", "killed-ending"):
            self.end(how, mount)
        elif self.commit(mount, how != "commit"):
            for name, chain in self.chains.items():
                chain.keep(backups[name])
            if how != "commit":
                how += ", committed"
        return how

    def test_rounds(self):
        before, done = self.traces(), collections.Counter()
        for number in range(ROUNDS):
            how = self.rng.choices(list(ENDS), ENDS.values())[0]
            with self.subTest(round=number, how=how):
                done[self.round(how)] += 1
                # A killed QEMU keeps the identity of a disk if it was stored by an earlier one, but
                # loses the restore point.
                if how not in ("killed", "killed-beginning", "qemu-quits", "qemu-killed"):
                    self.assertEqual(self.traces(), before)
                if self.rng.randrange(4) == 0:
                    self.recover()
                    self.assertEqual(self.traces(), before)
        # The next session cleans up after the last rounds.
        self.round("commit")
        self.assertEqual(self.traces(), before)
        self.assertEqual({len(points) for points in self.vm.points().values()}, {1})
        print(", ".join(f"{n} {how}" for how, n in sorted(done.items())), end=" ")


if __name__ == "__main__":
    lib.main()
