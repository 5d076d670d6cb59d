#!/usr/bin/env python3
"""Backups by tools that compare times: they read what changed and nothing else, whatever happened."""
import json
import os
import re
import shutil
import time

import lib
from vm import Disk, Vm

PIECE = lib.MIB
SIZE = 8 * PIECE + 12 * lib.KIB
ROUNDS = int(os.environ.get("ROUNDS") or 8)
# Listing a folder reads the partition table.
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
        """Stores a new generation of TOOL with rsync; returns the number of bytes read."""
        last = self.generations.setdefault(tool, [])
        target = self.path(tool)
        before = mount.json(".fleecefs/status.json")["exports"][0]["bytes_read"]
        options = ["--link-dest=" + last[-1][0]] if last else []
        lib.run("rsync", "-a", "--sparse", *options, mount / "vda/split/", target)
        last.append((target, self.model()))
        return mount.json(".fleecefs/status.json")["exports"][0]["bytes_read"] - before

    def check(self):
        """Checks that each remaining generation is complete by itself."""
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
        # A new tool reads everything.
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
        """Returns the status page's line about pieces."""
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
        # --full gives all pieces new times, which never go back.
        mount = self.begin("--full")
        shown = max(self.times(mount))
        self.end(mount, "--abort")
        mount = self.begin()
        self.assertGreater(min(self.times(mount)), shown)
        self.end(mount, "--abort")

    def test_disk_that_was_put_back(self):
        """A disk rolled back after an abort: tools may have newer contents, so all times are new."""
        self.vm.write("vda", 0, 4 * PIECE, 17)
        self.commit(self.begin_and_look())
        self.vm.quit()
        image, copy = self.vm.disks["vda"].image, self.path("copy")
        shutil.copyfile(image, copy)
        self.vm.start()
        self.vm.write("vda", PIECE, 4096, 34)
        for how in ("--abort", "unmount"):
            mount = self.begin_and_look()
            if how == "unmount":
                mount.unmount()
            else:
                self.end(mount, how)
            self.assertEqual(len(self.notes()), 2)
        self.vm.quit()
        shutil.copyfile(copy, image)
        self.vm.start()
        shown = max(self.seen)
        mount = self.begin_and_look()
        self.assertTrue(all(t > shown for t in self.seen))
        info = mount.json("vda/info.json")
        self.assertEqual((info["mode"], info["split"]["changed"]), ("incremental", len(self.seen)))
        self.commit(mount)
        kept = self.seen
        self.commit(self.begin_and_look())
        self.assertEqual(self.seen, kept)
        # Likewise with another size of pieces.
        self.end(self.begin_and_look("-o", "split=2M"), "--abort")
        shown = max(self.seen)
        mount = self.begin_and_look()
        self.assertTrue(all(t > shown for t in self.seen))
        self.end(mount, "--abort")

    def notes(self):
        state = self.vm.environment()["FLEECEFS_STATE_DIR"]
        return [os.path.join(state, n) for n in os.listdir(state)
                if n.startswith("pieces-") and not n.startswith("pieces-clock-")]

    def test_notes_that_are_invalid(self):
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

    def test_two_series(self):
        """A series whose pieces nobody looks at, as in a chain of qcow2 files, leaves the times of
        the other series alone. If its pieces are seen, all times are new in both."""
        self.vm.write("vda", 0, 4 * PIECE, 17)
        self.commit(self.begin_and_look())
        for piece in (1, 2):
            kept = self.seen
            self.vm.write("vda", piece * PIECE, 4096, 34)
            mount = self.begin("--series=images")
            mount.read("vda/disk.qcow2", "rb")
            self.assertNotIn("split/", mount.output())
            self.commit(mount)
            self.assertEqual(len(self.notes()), 1)
            self.commit(self.begin_and_look())
            self.assertEqual([i for i, t in enumerate(self.seen) if t != kept[i]], [piece])
        for series in ("images", "last"):
            shown = max(self.seen)
            mount = self.begin_and_look("--series=" + series)
            self.assertTrue(all(t > shown for t in self.seen))
            self.commit(mount)
        kept = self.seen
        self.commit(self.begin_and_look())
        self.assertEqual(self.seen, kept)

    def test_notes_of_another_disk(self):
        """Disks that trade places are new to tools that go by names; foreign notes are ignored."""
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
        self.assertEqual(mount.output().count("the notes of restore point"), 2)
        self.end(mount, "--abort")

    def clock(self):
        state = self.vm.environment()["FLEECEFS_STATE_DIR"]
        path, = (os.path.join(state, n) for n in os.listdir(state) if n.startswith("pieces-clock-"))
        return path

    def test_clock_that_was_set_back(self):
        """Changed pieces get times later than any shown before; the others keep theirs."""
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
        # Without the clock file, the notes suffice.
        os.unlink(self.clock())
        self.vm.write("vda", 3 * PIECE, 4096, 34)
        self.commit(self.begin_and_look())
        self.assertEqual(self.seen[3], (ahead + 3) * 10**9)
        self.assertEqual(self.seen[0], first[0])

    def test_disk_that_was_replaced_by_that_of_another_vm(self):
        """Two VMs may have used the same second: the copy does not get the times of the original."""
        pair = [self.vm, Vm(self, [Disk(self, "vda", size=SIZE)])]
        state = self.vm.environment()["FLEECEFS_STATE_DIR"]
        ahead = int(time.time()) + 100000
        for piece in (0, 1):
            for self.vm in pair:
                self.vm.write("vda", piece * PIECE, 4096, pair.index(self.vm) + 1)
                self.commit(self.begin_and_look())
            for path in (os.path.join(state, n) for n in os.listdir(state)):
                if os.path.basename(path).startswith("pieces-clock-"):
                    with open(path) as f:
                        text = f.read()
                    with open(path, "w") as f:
                        f.write(re.sub("(?m)^last .*$", f"last {ahead}", text))
        shared = (ahead + 1) * 10**9
        self.assertEqual(self.seen[1], shared)
        for vm in pair:
            vm.quit()
        lib.run("cp", pair[0].disks["vda"].image, pair[1].disks["vda"].image)
        os.symlink(pair[1].disks["vda"].image, self.dir + "/vda.qcow2")
        with self.mount(self.dir + "/vda.qcow2", env=self.vm.environment(),
                        options=["-o", "split=1M"]) as mount:
            self.assertNotIn(shared, self.times(mount))
        self.vm.monitor = self.path("moved")
        self.vm.start()
        mount = self.begin_and_look()
        self.assertIn("the notes of restore point", mount.output())
        self.assertNotIn(shared, self.seen)
        self.end(mount, "--abort")

    def test_image_of_a_vm_that_is_off(self):
        """It continues its VM's notes if the name is the same; each state of the image has one time."""
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
        # A write with a forged mtime is detected by the ctime.
        with open(image, "r+b"):
            os.utime(image, (first[0] // 10**9 - 10,) * 2)
        again = look()
        self.assertGreater(again[2] // 10**9, seen[2] // 10**9)
        # To tools, another folder is another disk, even of the same image.
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
        """Three tools, two of them added later; runs are aborted, killed or skipped."""
        restic = Restic(self) if shutil.which("restic") or lib.CI else None
        for number in range(ROUNDS):
            self.vm.scribble(self.rng)
            mount = self.begin()
            if number % 2 == 0 or self.rng.random() < 0.5:
                self.back_up(mount, "a")
            if number >= 2 and self.rng.random() < 0.7:
                self.back_up(mount, "b")
            if restic and number >= 1 and self.rng.random() < 0.7:
                restic.back_up(mount.point)
            how = self.rng.choice(["commit", "commit", "commit", "abort", "kill"])
            if how == "kill":
                mount.kill()
                lib.attempt("umount", "-l", mount.point)
            elif how == "abort":
                self.end(mount, "--abort")
            else:
                self.commit(mount)
        for generations in self.generations.values():
            # Retention removes two thirds, in any order.
            for target, _ in [g for i, g in enumerate(generations) if i % 3]:
                shutil.rmtree(target)
            generations[:] = generations[::3]
        self.check()
        if restic:
            restic.check()


class Images(lib.TestCase):
    def test_images_with_the_same_time(self):
        """Two versions of an image, stored under one name, share no pieces because of their times."""
        lib.require("rsync")
        env, to = self.environment(), self.mkdir("backups")
        for version in 1, 2, 2:
            folder = f"{self.dir}/v{version}"
            image = folder + "/web.raw"
            if not os.path.exists(folder):
                os.mkdir(folder)
                with open(image, "wb") as f:
                    f.write(bytes([version]) * 2 * lib.MIB)
                os.utime(image, (10**9, 10**9))
            lib.run(f"{lib.TOP}/contrib/fleecefs-backup", "-o", "split=1M", "rsync", to, "web=" + image,
                    env=env)
            newest = max(os.listdir(to + "/web"), key=lambda n: os.stat(f"{to}/web/{n}").st_ctime_ns)
            with open(f"{to}/web/{newest}/web/split/000001", "rb") as f:
                self.assertEqual(f.read(1), bytes([version]))
                links = os.fstat(f.fileno()).st_nlink
        self.assertEqual(links, 2)


class Restic:
    """Backups of the pieces with restic, which skips files whose size, time and inode are the same."""

    def __init__(self, test):
        lib.require("restic")
        self.test, self.repository, self.snapshots = test, test.path("repository"), []
        self.env = {**test.environment(), "RESTIC_PASSWORD": "x", "RESTIC_REPOSITORY": self.repository}
        self.run("init")

    def run(self, *argv, **kwargs):
        return lib.run("restic", "--json", *argv, env=self.env, **kwargs)

    def back_up(self, point):
        # Relative to the mount point, so that all snapshots have the same path.
        said = self.run("backup", "--host=h", "vda/split", "--force" if not self.snapshots else
                        "--parent=" + self.snapshots[-1][0], cwd=point)
        snapshot, = (line["snapshot_id"] for line in map(json.loads, said.splitlines())
                     if line["message_type"] == "summary")
        self.snapshots.append((snapshot, self.test.model()))

    def check(self):
        """Forgets two thirds and checks that the others restore correctly."""
        self.run("forget", "--prune", *[s for i, (s, _) in enumerate(self.snapshots) if i % 3])
        self.run("check", "--read-data")
        for snapshot, model in self.snapshots[::3]:
            target = self.test.path("restored")
            self.run("restore", "--target=" + target, snapshot)
            content = b""
            for folder, _, names in os.walk(target):
                for name in sorted(names):
                    with open(f"{folder}/{name}", "rb") as f:
                        content += f.read()
            self.test.assertTrue(content == model, snapshot)
            shutil.rmtree(target)


if __name__ == "__main__":
    lib.main()
