#!/usr/bin/env python3
"""Backups by tools that go by times: what changed is read, and nothing else, whatever came between."""
import os
import shutil

import lib
from vm import Disk, Vm

PIECE = lib.MIB
SIZE = 8 * PIECE + 12 * lib.KIB
ROUNDS = int(os.environ.get("ROUNDS") or 8)
# What listing a folder reads: the partition table.
TABLE = 64 * lib.KIB


class SplitTimes(lib.TestCase):
    def setUp(self):
        super().setUp()
        lib.require("rsync")
        self.vm = Vm(self, [Disk(self, "vda", size=SIZE)])
        self.generations = {}

    def begin(self, *options):
        return self.mount("qmp:" + self.vm.monitor, env=self.vm.environment(),
                          options=["-o", "split=1M,scratch=" + self.dir, *options])

    def end(self, mount, *command):
        done = self.fleecefs(*command, mount.point)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        mount.check_gone()
        self.assertEqual(self.vm.leftovers(), [])

    def commit(self, mount):
        self.end(mount, "--commit", "--force")

    def model(self):
        return bytes(self.vm.disks["vda"].model)

    def times(self, mount):
        folder = mount / "vda/split"
        found = []
        for name in sorted(os.listdir(folder)):
            st = os.stat(f"{folder}/{name}")
            self.assertEqual(st.st_mtime_ns, st.st_ctime_ns)
            found.append(st.st_mtime_ns)
        return found

    def back_up(self, mount, tool):
        """A new generation of TOOL by rsync; returns how many bytes were read for it."""
        last = self.generations.setdefault(tool, [])
        target = self.path(tool)
        before = mount.json(".fleecefs/status.json")["exports"][0]["bytes_read"]
        options = ["--link-dest=" + last[-1][0]] if last else []
        lib.run("rsync", "-a", "--sparse", *options, mount / "vda/split/", target)
        last.append((target, self.model()))
        return mount.json(".fleecefs/status.json")["exports"][0]["bytes_read"] - before

    def check(self):
        """Every generation that is left is the disk as it was, on its own."""
        for generations in self.generations.values():
            for target, model in generations:
                content = b""
                for name in sorted(os.listdir(target)):
                    with open(f"{target}/{name}", "rb") as f:
                        content += f.read()
                self.assertTrue(content == model, target)

    def test_only_what_changed(self):
        self.vm.write("vda", 0, SIZE - 4096, 17)
        mount = self.begin()
        first = self.times(mount)
        self.assertEqual(len(set(first)), 1)
        self.back_up(mount, "a")
        self.end(mount, "--commit")

        mount = self.begin()
        self.assertEqual(self.times(mount), first)
        self.assertLessEqual(self.back_up(mount, "a"), TABLE)
        self.assertEqual(mount.json("vda/info.json")["split"]["changed"], 0)
        # Somebody who was not here before reads all of it.
        self.assertGreaterEqual(self.back_up(mount, "b"), SIZE - 2 * lib.MIB)
        self.end(mount, "--commit")

        self.vm.write("vda", 3 * PIECE + 5000, 1000, 34)
        self.vm.zero("vda", 6 * PIECE, PIECE)
        mount = self.begin()
        now = self.times(mount)
        self.assertEqual([i for i, t in enumerate(now) if t != first[i]], [3, 6])
        self.assertEqual(now[3], now[6])
        self.assertGreaterEqual(now[3] // 10**9, first[3] // 10**9 + 1)
        self.assertLessEqual(self.back_up(mount, "a"), PIECE + TABLE)
        self.assertEqual(mount.json("vda/info.json")["split"]["changed"], 2)
        self.end(mount, "--commit")
        self.check()

    def test_an_abort_changes_nothing(self):
        self.vm.write("vda", 0, 4 * PIECE, 17)
        mount = self.begin()
        first = self.times(mount)
        self.commit(mount)
        self.vm.write("vda", PIECE, 4096, 34)
        for how in ("--abort", "kill"):
            mount = self.begin()
            times = self.times(mount)
            self.assertEqual([i for i, t in enumerate(times) if t != first[i]], [1])
            if how == "kill":
                mount.kill()
                lib.attempt("umount", "-l", mount.point)
            else:
                self.end(mount, how)
        mount = self.begin()
        again = self.times(mount)
        self.assertEqual([i for i, t in enumerate(again) if t != first[i]], [1])
        self.assertNotEqual(again[1], times[1])
        self.commit(mount)

    def notes(self):
        state = self.vm.environment()["FLEECEFS_STATE_DIR"]
        return [os.path.join(state, n) for n in os.listdir(state) if n.startswith("pieces-")]

    def test_notes_that_do_not_count(self):
        self.vm.write("vda", 0, 4 * PIECE, 17)
        self.commit(self.begin_and_look())
        kept = self.seen
        self.commit(self.begin_and_look())
        self.assertEqual(self.seen, kept)
        self.assertEqual(len(self.notes()), 1)
        self.commit(self.begin_and_look("-o", "full"))
        self.assertTrue(all(t > kept[0] for t in self.seen))

        def damage(path):
            with open(path, "r+b") as f:
                f.seek(100)
                f.write(b"x")
        for spoil in (os.unlink, damage, lambda path: os.truncate(path, 50)):
            before = self.seen
            for path in self.notes():
                spoil(path)
            self.commit(self.begin_and_look())
            self.assertTrue(all(t > before[0] for t in self.seen))
            before = self.seen
            self.commit(self.begin_and_look())
            self.assertEqual(self.seen, before)
        # Pieces of another size, and then of the size that the series has.
        before = self.seen
        self.commit(self.begin_and_look("-o", "split=2M"))
        self.assertTrue(all(t > before[0] for t in self.seen))
        self.assertEqual(len(self.seen), 5)

    def begin_and_look(self, *options):
        mount = self.begin(*options)
        self.seen = self.times(mount)
        return mount

    def test_generations(self):
        """Two tools, one of them added later, over runs that are aborted, killed or left out."""
        for number in range(ROUNDS):
            self.vm.scribble(self.rng)
            mount = self.begin()
            if number % 2 == 0 or self.rng.random() < 0.5:
                self.back_up(mount, "a")
            if number >= 2 and self.rng.random() < 0.7:
                self.back_up(mount, "b")
            how = self.rng.choice(["commit", "commit", "commit", "abort", "kill"])
            if how == "kill":
                mount.kill()
                lib.attempt("umount", "-l", mount.point)
            elif how == "abort":
                self.end(mount, "--abort")
            else:
                self.commit(mount)
        for generations in self.generations.values():
            # Retention: two thirds go, in any order.
            for target, _ in [g for i, g in enumerate(generations) if i % 3]:
                shutil.rmtree(target)
            generations[:] = generations[::3]
        self.check()


if __name__ == "__main__":
    lib.main()
