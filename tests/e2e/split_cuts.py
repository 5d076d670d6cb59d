#!/usr/bin/env python3
"""The daemon is killed at each step while notes of pieces and restore points change: whenever contents
of a piece change, its time does, too.

Environment: STRIDE tries only every STRIDE-th step, from a random one on."""
import os
import subprocess

import lib
from vm import Disk, Vm

PIECE = lib.MIB
SIZE = 5 * PIECE
STRIDE = int(os.environ.get("STRIDE") or 61)


class Cuts(lib.TestCase):
    def setUp(self):
        super().setUp()
        lib.require("rsync")
        if "CUT_MODULE" not in os.environ or lib.SANITIZED:
            self.skipTest("no module to preload, or a sanitizer must be loaded first")
        self.vm = Vm(self, [Disk(self, name, size=SIZE) for name in ("vda", "vdb")])
        # In a folder that the sandboxed daemon can read.
        self.order = os.path.join(self.vm.state, "cut")
        self.env = {**self.vm.environment(), "LD_PRELOAD": os.environ["CUT_MODULE"], "CUT": self.order}
        self.options = ["-o", "split=1M,scratch=" + self.dir]
        self.seen = {}  # (disk, piece, time) to content
        self.target = self.mkdir("target")
        self.stops, self.step = 0, "the first one"

    def cut_at(self, pid, number):
        """Has daemon PID (0: the next one) killed at step NUMBER."""
        with open(self.order + ".new", "w") as f:
            f.write(f"{pid} {number}")
        os.rename(self.order + ".new", self.order)

    def clear(self, point):
        os.unlink(self.order)
        if lib.is_mounted(point):
            lib.run("umount", "-l", point)

    def change(self):
        """Writes to one or two pieces of each disk."""
        for name in self.vm.disks:
            for _ in range(self.rng.randrange(1, 3)):
                at = self.rng.randrange(SIZE // 4096) * 4096
                self.vm.write(name, at, 4096, self.rng.randrange(1, 256))

    def back_up(self, mount):
        """Backs up by times; a piece must have the same content whenever it has the same time."""
        for name, disk in self.vm.disks.items():
            folder = mount / f"{name}/split"
            for i in range(SIZE // PIECE):
                content = bytes(disk.model[i * PIECE:(i + 1) * PIECE])
                time = os.stat(f"{folder}/{i:06}").st_mtime_ns
                self.assertTrue(self.seen.setdefault((name, i, time), content) == content,
                                f"{self.step}: piece {i} of {name} has changed, but not its time")
            lib.run("rsync", "-a", "--sparse", folder, f"{self.target}/{name}")
            self.assertTrue(self.stored(name) == bytes(disk.model), f"{self.step}: {name}")

    def stored(self, name):
        content = b""
        for i in range(SIZE // PIECE):
            with open(f"{self.target}/{name}/split/{i:06}", "rb") as f:
                content += f.read()
        return content

    def begin(self):
        return self.mount("qmp:" + self.vm.monitor, env=self.env, options=self.options)

    def run_whole(self):
        """Runs a backup undisturbed, with all notes available."""
        mount = self.begin()
        self.assertNotIn("the notes of restore point", mount.output(), self.step)
        self.back_up(mount)
        self.end(mount, "--commit", "--force")
        mount.check_gone()
        self.assertEqual(self.vm.leftovers(), [], self.step)

    def end(self, mount, *command):
        return self.fleecefs(*command, mount.point)

    def steps(self):
        """Yields step numbers until the daemon does not reach one."""
        self.number, self.reached = self.rng.randrange(STRIDE), True
        while self.reached:
            self.assertLess(self.number, 2000)
            yield self.number
            self.stops += self.reached
            self.number += STRIDE

    def check_ending(self, *command):
        self.run_whole()
        for number in self.steps():
            self.step = f"{command[0]}, killed at step {number}"
            self.change()
            mount = self.begin()
            self.back_up(mount)
            self.cut_at(mount.pid, number)
            done = self.end(mount, *command)
            self.reached = done.returncode != 0
            if self.reached:
                mount.kill()
            else:
                mount.check_gone()
            self.clear(mount.point)
            # Sometimes without new changes.
            if self.rng.randrange(3):
                self.change()
            self.run_whole()
        self.assertGreater(self.number, 20)
        print(f"{self.stops} killed, none at step {self.number}", end=" ")

    def test_commit(self):
        self.check_ending("--commit", "--force")

    def test_abort(self):
        self.check_ending("--abort")

    def test_beginning(self):
        self.run_whole()
        for number in self.steps():
            self.step = f"begun, killed at step {number}"
            self.change()
            point = self.mkdir("mnt")
            self.cut_at(0, number)
            with subprocess.Popen([*lib.FLEECEFS, "-f", *self.options, "qmp:" + self.vm.monitor, point],
                                  env=self.env, stderr=subprocess.DEVNULL,
                                  preexec_fn=lib.die_with_us) as process:
                while process.poll() is None and not os.path.exists(point + "/.fleecefs"):
                    pass
                self.reached = process.poll() is not None
                process.kill()
            self.clear(point)
            self.run_whole()
        self.assertGreater(self.number, 20)
        print(f"{self.stops} killed, none at step {self.number}", end=" ")


if __name__ == "__main__":
    lib.main()
