#!/usr/bin/env python3
"""Backups by tools that go by times: what changed is read, and nothing else, whatever came between."""
import os
import re
import shutil
import subprocess
import time

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

    def times(self, mount, disk="vda"):
        folder = mount / f"{disk}/split"
        found = []
        for name in sorted(os.listdir(folder)):
            st = os.stat(f"{folder}/{name}")
            if self.vm.process.poll() is None:
                self.assertEqual(st.st_mtime_ns, st.st_ctime_ns)
            self.assertGreaterEqual(st.st_ctime_ns // 10**9, st.st_mtime_ns // 10**9)
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
        self.assertEqual(self.pieces_read(mount), "2 changed, 0 of them read")
        mount.read("vda/split/000003", "rb")
        self.assertEqual(self.pieces_read(mount), "2 changed, 1 of them read")
        self.assertLessEqual(self.back_up(mount, "a"), PIECE + TABLE)
        self.assertEqual(self.pieces_read(mount), "2 changed, 2 of them read")
        self.assertEqual(mount.json("vda/info.json")["split"]["changed"], 2)
        self.end(mount, "--commit")
        self.check()

    def pieces_read(self, mount):
        """What the status page says of them."""
        return re.search(r"^  pieces +(.*)$", self.fleecefs("--status", mount.point).stdout, re.M)[1]

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
        return [os.path.join(state, n) for n in os.listdir(state)
                if n.startswith("pieces-") and not n.startswith("pieces-clock-")]

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

    def test_notes_that_are_another_disks(self):
        """Two disks that trade places are new to whoever goes by names; so are foreign notes."""
        self.vm.quit()
        pair = [Disk(self, name, size=SIZE) for name in ("sda", "sdb")]
        self.vm = Vm(self, pair)
        self.vm.write("sda", 0, 4 * PIECE, 17)
        self.vm.write("sdb", 0, 4 * PIECE, 34)
        mount = self.begin()
        before = [self.times(mount, name) for name in ("sda", "sdb")]
        self.assertEqual(before[0], before[1])
        self.commit(mount)
        notes = sorted(self.notes())
        with open(notes[0], "rb") as a, open(notes[1], "rb") as b:
            swapped = b.read(), a.read()
        for path, content in zip(notes, swapped):
            with open(path, "wb") as f:
                f.write(content)
        mount = self.begin()
        for name, old in zip(("sda", "sdb"), before):
            self.assertTrue(all(t > old[0] for t in self.times(mount, name)), name)
        self.assertEqual(mount.output().count("of the notes of restore point"), 2)
        self.end(mount, "--abort")

    def test_commit_that_is_killed(self):
        """Wherever a commit is cut, there are notes for the base that counts then."""
        self.vm.write("vda", 0, SIZE - 4096, 17)
        self.commit(self.begin_and_look())
        for cut in range(4):
            before = self.seen
            self.vm.write("vda", cut * PIECE, 4096, 34 + cut)
            mount = self.begin()
            now = self.times(mount)
            had = set(self.notes())
            with subprocess.Popen([*lib.FLEECEFS, "--commit", "--force", mount.point],
                                  stderr=subprocess.DEVNULL) as commit:
                while cut < 3 and set(self.notes()) <= had and commit.poll() is None:
                    pass
                mount.kill()
                lib.attempt("umount", "-l", mount.point)
            mount = self.begin()
            self.seen = self.times(mount)
            # Either it counts, or it never was.
            self.assertEqual([i for i, t in enumerate(self.seen) if t != before[i]], [cut])
            committed = mount.json("vda/info.json")["split"]["changed"] == 0
            self.assertEqual(self.seen[cut] == now[cut], committed)
            self.assertNotIn("of the notes", mount.output())
            self.commit(mount)

    def clock(self):
        state = self.vm.environment()["FLEECEFS_STATE_DIR"]
        path, = (os.path.join(state, n) for n in os.listdir(state) if n.startswith("pieces-clock-"))
        return path

    def test_clock_that_was_set_back(self):
        """What has changed is later than all that was shown, and the rest keeps its times."""
        self.vm.write("vda", 0, 4 * PIECE, 17)
        self.commit(self.begin_and_look())
        first = self.seen
        ahead = int(time.time()) + 100000
        with open(self.clock()) as f:
            text = f.read()
        with open(self.clock(), "w") as f:
            f.write(re.sub("(?m)^last .*$", f"last {ahead}", text))
        for piece in (1, 2):
            before = self.seen
            self.vm.write("vda", piece * PIECE, 4096, 34)
            mount = self.begin_and_look()
            self.assertEqual([i for i, t in enumerate(self.seen) if t != before[i]], [piece])
            self.assertEqual(self.seen[piece], (ahead + piece) * 10**9)
            self.assertEqual(mount.json("vda/info.json")["point_in_time"][:4],
                             time.strftime("%Y", time.gmtime()))
            self.commit(mount)
        # Without the file there are the notes.
        os.unlink(self.clock())
        self.vm.write("vda", 3 * PIECE, 4096, 34)
        self.commit(self.begin_and_look())
        self.assertEqual(self.seen[3], (ahead + 3) * 10**9)
        self.assertEqual(self.seen[0], first[0])

    def test_image_of_a_vm_that_is_off(self):
        """It goes by the notes of its VM, under the same name; its state has one time."""
        self.vm.write("vda", 0, SIZE - 4096, 17)
        self.commit(self.begin_and_look())
        first = self.seen
        self.vm.write("vda", 2 * PIECE, 4096, 34)
        self.vm.quit()
        image = os.path.join(self.dir, "vda.qcow2")
        os.symlink(self.vm.disks["vda"].image, image)

        def look(source=image, changed=(2,)):
            with self.mount(source, env=self.vm.environment(), options=["-o", "split=1M"]) as mount:
                folder = os.path.dirname(mount.files()[0]).split("/dirty")[0]
                times = self.times(mount, folder)
                self.assertEqual([i for i, t in enumerate(times) if t != first[i]], list(changed))
                self.assertEqual(mount.json(folder + "/info.json")["split"]["changed"], len(changed))
                if changed:
                    self.assertGreater(times[changed[0]] // 10**9, first[0] // 10**9)
                return times
        seen = look()
        self.assertEqual(look(), seen)
        # Whoever writes to it and has it look as old is found out by its ctime.
        with open(image, "r+b"):
            os.utime(image, (first[0] // 10**9 - 10,) * 2)
        again = look()
        self.assertGreater(again[2] // 10**9, seen[2] // 10**9)
        # To tools, another folder is another disk, whatever the image is called.
        look("x=" + image, range(len(first)))
        look("vda=" + self.vm.disks["vda"].image)
        for spoil in (lambda path: os.truncate(path, 60), os.unlink):
            for path in self.notes():
                spoil(path)
            look(image, range(len(first)))

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
