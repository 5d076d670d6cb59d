#!/usr/bin/env python3
"""Retention of fleecefs-backup: kept generations can be restored even if a run is killed at any step."""
import json
import os
import shutil
import sys
import unittest.mock

import lib
import scripts
import scripts_restore
from disks import qemu_io
from scripts_restore import SIZE, point

sys.path.append(lib.TOP + "/contrib")
sys.dont_write_bytecode = True
from fleecefs_backups import commands, fold, making, qcow2, stored, sums, tools  # noqa: E402


class Fold(lib.TestCase):
    store, disk = scripts_restore.Restore.store, staticmethod(scripts_restore.Restore.disk)

    def setUp(self):
        super().setUp()
        self.to = self.mkdir("backups")

    def chain(self, form, length=4):
        """Stores a chain of VM web; returns the contents of each generation."""
        expected, clusters = {}, {}
        for n in range(length):
            # Each overwrites parts of earlier ones, also with zeros.
            writes = {"c1": n + 1, f"c{n + 2}": n + 1} if n % 2 else {f"c{n + 4}": n + 1, "c1": 0}
            clusters.update(writes)
            self.increment(form, n, writes)
            expected[point(n)] = self.disk(**clusters)
        return expected

    def increment(self, form, n, writes):
        name = point(n)
        base = point(n - 1) if n else None
        for cluster, byte in writes.items():
            if os.path.isdir(f"{self.to}/web/{name}"):
                self.add(form, name, int(cluster[1:]), byte, base)
            else:
                self.store(f"web/{name}/vda", byte, int(cluster[1:]), form=form, base=base, number=n,
                           restore_point=name, disk_id="d", mode="incremental" if base else "full",
                           vm=scripts_restore.WEB)
        with open(f"{self.to}/web/{name}/vm.json", "w") as f:
            json.dump({"version": 1, "called": "web", "vm": scripts_restore.WEB, "generation": name,
                       "number": n, "series": "last", "disks": {"vda": {
                           "mode": "incremental" if n else "full", "disk_id": "d",
                           "restore_point": name, **({"base": base} if base else {}),
                           "needs": [point(i) for i in range(n)]}}}, f)
        sums.record(f"{self.to}/web/{name}")

    def add(self, form, name, at, byte, base):
        """Adds a cluster to a stored image."""
        path = f"{self.to}/web/{name}/vda/{'dirty/last' if base else 'disk'}.{form}"
        start, end = at * 65536, (at + 1) * 65536
        qemu_io(path, [f"write -{f'P {byte}' if byte else 'z'} {start} 64k"], form)
        if form == "raw" and base:
            ranges = [making.read_map(path[:-3] + "ddrescue", SIZE), [(start, end - start)]]
            fold.write_map(path[:-3] + "ddrescue", fold.united(ranges), SIZE)

    @staticmethod
    def content(chain):
        """Reads a chain with our own reader, which is much faster than qemu-img."""
        data = bytearray(SIZE)
        for image in chain:
            with making.opened(image.path) as fd:
                if image.form == "raw":
                    ranges = [(s, n, s) for s, n in making.read_map(image.map, SIZE)] \
                        if image.base else [(0, SIZE, 0)]
                else:
                    ranges = list(qcow2.extents(fd, qcow2.read_header(fd)))
                for start, length, place in ranges:
                    data[start:start + length] = bytes(length) if place is None else \
                        qcow2.read_exactly(fd, place, length)
        return data

    def restored(self, folder, name, by_qemu):
        """Returns the restored contents of a generation."""
        there = stored.Stored(folder)
        images = [i for i in there.images if i.generation == name]
        self.assertTrue(images, f"{name} is not there")
        chain = there.chain(min(images, key=lambda i: (i.base, i.form)))
        if not by_qemu:
            return self.content(chain)
        out = self.path("restored")
        for image in chain:
            making.check_file(image)
        making.restore(chain, out, "raw")
        with open(out, "rb") as f:
            return f.read()

    def check_kept(self, folder, expected, going, settled, by_qemu=False):
        for name, model in expected.items():
            if name not in going:
                self.assertTrue(self.restored(folder, name, by_qemu) == model, name)
        if not settled:
            return
        for name in set(expected) - going:
            lib.run("sha256sum", "--check", "--quiet", "--strict", sums.FILE, cwd=f"{folder}/web/{name}")
            with open(f"{folder}/web/{name}/vm.json") as f:
                needs = set(json.load(f)["disks"]["vda"]["needs"])
            self.assertEqual(needs & going, set())
        hidden = [f for _, folders, files in os.walk(folder) for f in folders + files
                  if f.startswith(".")]
        self.assertEqual(hidden, [])
        self.assertEqual(sorted(os.listdir(folder + "/web")), sorted(set(expected) - going))

    @staticmethod
    def prune(folder, going):
        tool = tools.TOOLS["qcow2"](folder, "web")
        with tool.locked():
            tool.finish()
            tool.fold(going)
            for name in sorted(going, reverse=True):
                tool.discard(name)

    def prune_by_steps(self, going, before_step):
        """Removes the generations GOING, calling BEFORE_STEP before each change."""
        # Slow, and changes nothing.
        patches = [unittest.mock.patch.object(making, "check_file")]

        def step(function):
            def wrapped(*args, **kwargs):
                for patch in patches:
                    patch.stop()
                before_step()
                for patch in patches:
                    patch.start()
                return function(*args, **kwargs)
            return wrapped

        for module, name in ((os, "rename"), (os, "unlink"), (os, "rmdir"), (os, "fsync"),
                             (os, "chmod"), (os, "pwrite"), (making, "run"), (shutil, "rmtree")):
            patches.append(unittest.mock.patch.object(module, name, step(getattr(module, name))))
        try:
            for patch in patches:
                patch.start()
            self.prune(self.to, going)
        finally:
            for patch in patches:
                patch.stop()

    # The end of a process loses no written data, and syncing at each of hundreds of cuts takes
    # minutes.
    @unittest.mock.patch.object(os, "fsync", lambda fd: None)
    def check_cuts(self, form, *going):
        """A process that ended before any step of the removal leaves what there is then."""
        expected = self.chain(form)
        going = {point(n) for n in going}
        cuts = 0

        def cut():
            nonlocal cuts
            cuts += 1
            folder = self.path("copy")
            shutil.copytree(self.to, folder)
            self.check_kept(folder, expected, going, False)
            # The next run completes the merge.
            self.prune(folder, going & set(os.listdir(folder + "/web")))
            self.check_kept(folder, expected, going, True)
            shutil.rmtree(folder)

        self.prune_by_steps(going, cut)
        self.check_kept(self.to, expected, going, True, by_qemu=True)
        self.assertGreater(cuts, 10)
        kept = sorted(set(expected) - going)
        full = stored.Stored(self.to).images[0]
        self.assertEqual((full.generation, full.base, full.form), (kept[0], "", form))

    def test_into_the_full_one_qcow2(self):
        self.check_cuts("qcow2", 0, 1)

    def test_into_the_full_one_raw(self):
        self.check_cuts("raw", 0, 1)

    def test_in_the_middle_qcow2(self):
        self.check_cuts("qcow2", 1, 2)

    def test_in_the_middle_raw(self):
        self.check_cuts("raw", 1, 2)

    def test_what_cannot_be_folded_is_kept(self):
        """A raw increment on a full backup in qcow2."""
        self.increment("qcow2", 0, {"c1": 1})
        self.increment("raw", 1, {"c2": 2})
        self.increment("raw", 2, {"c3": 3})
        found = tools.TOOLS["raw"](self.to, "web").inventory()
        self.assertEqual([found[point(n)].foldable for n in range(3)], [True, False, False])

    def test_damaged_is_not_folded(self):
        self.chain("qcow2", 3)
        path = f"{self.to}/web/{point(1)}/vda/dirty/last.qcow2"
        os.truncate(path, os.path.getsize(path) // 2)
        with self.assertRaisesRegex(stored.Refused, "last.qcow2 is damaged"):
            self.prune(self.to, {point(0), point(1)})
        self.assertEqual(len(os.listdir(self.to + "/web")), 3)

    def test_odd_vm_json(self):
        """It does not keep others from being removed, and is left as it is."""
        self.chain("qcow2", 2)
        path = f"{self.to}/web/{point(1)}/vm.json"
        for disks in (5, [], {"vda": 5}):
            with open(path) as f:
                said = {**json.load(f), "disks": disks}
            with open(path, "w") as f:
                json.dump(said, f)
            tools.TOOLS["qcow2"](self.to, "web").renew({point(0)})
            with open(path) as f:
                self.assertEqual(json.load(f), said)

    def test_two_at_once(self):
        self.chain("qcow2", 3)
        tool = tools.TOOLS["qcow2"](self.to, "web")
        with tool.locked():
            with self.assertRaisesRegex(commands.Failed, "another run is using"):
                self.prune(self.to, {point(0)})


class Keep(scripts.Base):
    def check(self, tool):
        """Ten days of increments, keeping four and then two."""
        vm, expected, mode = self.vm("vda"), {}, "full"
        for _ in range(6):
            names = self.backup(vm, "--keep", "last=3", tool=tool, says=f"vda {mode}")
            expected[names[0]] = bytes(vm.disks["vda"].model)
            mode = "since"
            for name in sorted(expected)[:-3]:
                del expected[name]
            self.assertEqual(sorted(self.generations()), sorted(expected))
            for name, model in expected.items():
                self.assertTrue(self.restore(self.to + "/web", "--at", name) == model, name)
            vm.scribble(self.rng)
        done = lib.attempt(*self.arguments(vm, "-n", "-k", "last=1", tool=tool), env=self.env)
        self.assertEqual((done.returncode, done.stderr.count("would be")), (0, 3), done.stderr)
        self.assertIn("would be merged", done.stderr)
        self.assertEqual(sorted(self.generations()), sorted(expected))

    def test_qcow2(self):
        self.check("qcow2")

    def test_raw(self):
        self.check("raw")


if __name__ == "__main__":
    lib.main()
