#!/usr/bin/env python3
"""fleecefs --forget: removes everything that backups leave in a VM or an image, and nothing else."""
import json
import os

import disks
import lib
from vm import Disk, Vm


def bitmaps(image):
    info = json.loads(lib.run("qemu-img", "info", "--output=json", image))
    return sorted(b["name"] for b in info["format-specific"]["data"].get("bitmaps", []))


class Forget(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.vm = Vm(self, [Disk(self, "vda", lib.MIB), Disk(self, "vdb", lib.MIB, kind="raw")])
        self.source = "qmp:" + self.vm.monitor

    def begin(self, *options):
        return self.mount(self.source, env=self.vm.environment(),
                          options=["-o", f"scratch={self.dir}", *options])

    def back_up(self, *options):
        mount = self.begin(*options)
        self.assertEqual(self.fleecefs("--commit", "--force", mount.point).returncode, 0)
        mount.check_gone()

    def forget(self, *args, status=0):
        done = lib.attempt(*lib.FLEECEFS, "--forget", *args, env=self.vm.environment())
        self.assertEqual(done.returncode, status, done.stderr)
        return done.stdout.splitlines(), done.stderr

    def ours(self):
        return sorted(key for key in self.vm.bitmaps() if key[1].startswith("fleecefs"))

    def test_running_vm(self):
        self.vm.qmp("block-dirty-bitmap-add", node="vda", name="other")
        self.back_up()
        self.back_up("--series=week")
        found = self.ours()
        week = [key for key in found if ".week." in key[1]]
        self.assertTrue(week and week != found)
        said, _ = self.forget("--series=week", self.source)
        self.assertEqual(sorted(said), [f"removed bitmap {b} of {n}" for n, b in
                                        sorted(week, key=lambda k: f"{k[1]} of {k[0]}")])
        self.assertEqual(self.ours(), [key for key in found if key not in week])
        said, _ = self.forget(self.source)
        self.assertEqual(len(said), len(found) - len(week))
        self.assertEqual(list(self.vm.bitmaps()), [("vda", "other")])
        self.assertEqual(os.listdir(self.vm.state), [])
        self.assertEqual(self.forget(self.source),
                         ([], f"fleecefs: {self.source} has no restore point\n"))
        mount = self.begin()
        self.assertEqual(mount.json("vda/info.json")["mode"], "full")

    def test_mounted(self):
        """The monitor of a VM that is mounted does not answer: the mount is named instead, at once."""
        mount = self.begin()
        found = self.ours()
        self.assertTrue(found)
        for source in (self.source, "qmp:" + os.path.relpath(self.vm.monitor)):
            for command in ("--forget", "--recover"):
                done = lib.attempt(*lib.FLEECEFS, command, source, env=self.vm.environment())
                self.assertEqual((done.returncode, done.stdout), (1, ""))
                self.assertEqual(
                    done.stderr, f"fleecefs: {source} is mounted at {mount.point}: end that mount "
                    f"first (fleecefs --commit or fleecefs --abort {mount.point})\n")
        self.assert_refused(self.source, self.mkdir("other"), says=[self.source, "is mounted at "
                                                                    + mount.point])
        self.assertEqual(self.ours(), found)
        mount.read("vda/disk.raw", "rb")
        # What a daemon that died has left does not count.
        mount.kill()
        self.forget("--series=week", self.source)

    def test_mounted_with_another_source(self):
        """The mount is found by its status, because its name tells no source."""
        image = disks.create(self.path("other.qcow2"), size="1M")
        with self.mount("a=" + self.source, "b=" + image, env=self.vm.environment(),
                        options=["-o", f"scratch={self.dir}"]) as mount:
            self.assertEqual(mount.json(".fleecefs/status.json")["sources"], [self.source, image])
            for source in (self.source, image):
                self.assertIn(f"{source} is mounted at {mount.point}: ",
                              self.forget(source, status=1)[1])

    def test_mounted_through_another_monitor(self):
        """The mount is found by the VM's lock."""
        other = self.path("other")
        self.vm.quit()
        self.vm = Vm(self, [Disk(self, "vda", lib.MIB)], ["-qmp", f"unix:{other},server=on,wait=off"])
        self.source = "qmp:" + self.vm.monitor
        mount = self.begin()
        for command in ("--forget", "--recover"):
            done = lib.attempt(*lib.FLEECEFS, command, "qmp:" + other, env=self.vm.environment())
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertRegex(done.stderr, r"\Afleecefs: [^\n]+\n\Z")
            self.assertIn(f"another fleecefs uses this VM, the mount {mount.point}: end it first "
                          f"(fleecefs --commit or fleecefs --abort {mount.point})\n", done.stderr)
        self.assertEqual(self.fleecefs("--abort", mount.point).returncode, 0)
        self.forget("qmp:" + other)

    def test_image(self):
        """Of a VM that is shut off, including backing files."""
        self.back_up()
        image = self.vm.disks["vda"].image
        said, error = self.forget(image, status=1)
        self.assertEqual(said, [])
        self.assertIn(f"{image} is in use by a VM or a mount", error)
        self.vm.quit()
        disks.add_bitmap(image, "other")
        found = bitmaps(image)
        self.assertGreater(len(found), 1)
        overlay = disks.create(self.path("overlay.qcow2"), backing=image)
        disks.add_bitmap(overlay, "fleecefs.last.20261121T033659Z")
        before = disks.raw_bytes(overlay, self.path("before"))
        self.assertEqual(self.forget("--series=week", overlay),
                         ([], f"fleecefs: {overlay} has no restore point of series 'week'\n"))
        with self.mount(overlay):
            self.assertIn(f"{overlay} is mounted at ", self.forget(overlay, status=1)[1])
        said, _ = self.forget(overlay)
        self.assertEqual(said[0], f"removed bitmap fleecefs.last.20261121T033659Z of {overlay}")
        self.assertEqual(sorted(said[1:]),
                         sorted(f"removed bitmap {b} of {image}" for b in found if b != "other"))
        self.assertEqual((bitmaps(image), bitmaps(overlay)), (["other"], []))
        self.assertEqual(disks.raw_bytes(overlay, self.path("after")), before)
        self.assertEqual(self.forget(overlay), ([], f"fleecefs: {overlay} has no restore point\n"))

    def test_wrong_words(self):
        for args, status, says in ((["nbd://localhost"], 2, "servers have no restore points"),
                                   (["--series=a/b", self.source], 2, "a name consists of 1 to 100"),
                                   ([], 2, "give one source"), (["a", "b"], 2, "give one source"),
                                   (["/nowhere"], 1, "cannot open /nowhere: No such file or directory; "
                                    "--forget takes qmp:PATH"),
                                   ([self.dir], 1, "neither a file nor a block device; --forget takes")):
            said, error = self.forget(*args, status=status)
            self.assertEqual(said, [])
            self.assertRegex(error, rf"\Afleecefs: [^\n]*{says}[^\n]*\n\Z")


if __name__ == "__main__":
    lib.main()
