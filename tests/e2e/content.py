#!/usr/bin/env python3
"""Every byte of the raw files, read in every way, against stock tools."""
import mmap
import os

import disks
import lib


class Content(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.image = disks.create(self.path("vm.qcow2"), bitmaps=["coarse", ("fine", 512)])
        disks.scribble(self.image, self.rng, 60)
        disks.add_bitmap(self.image, "late", 4 * lib.KIB)
        disks.scribble(self.image, self.rng, 10)
        disks.add_bitmap(self.image, "clean")
        self.disk = disks.raw_bytes(self.image, self.path("raw"))
        self.server = self.qemu_nbd(self.image, "-r", "-f", "qcow2", "-B", "coarse", "-B", "fine",
                                    "-B", "late", "-B", "clean")
        self.expected = {"disk.raw": self.disk}
        for bitmap in ("coarse", "fine", "late", "clean"):
            dirty = disks.dirty_map(self.server.uri, bitmap)
            self.expected[f"dirty/{bitmap}.raw"] = disks.masked(self.disk, dirty)

    def assert_same(self, name, offset, found):
        expected = self.expected[name][offset:offset + len(found)]
        if found != expected:
            first = next(i for i, (a, b) in enumerate(zip(found, expected)) if a != b)
            self.fail(f"{name}: differs at {offset + first}, read from {offset} on")

    def read_at_random(self, folder, count):
        """Does COUNT reads of all files, alternating between page cache, O_DIRECT, and mmap."""
        for name, expected in self.expected.items():
            path = os.path.join(folder, name)
            cached, direct = os.open(path, os.O_RDONLY), os.open(path, os.O_RDONLY | os.O_DIRECT)
            mapped = mmap.mmap(cached, 0, prot=mmap.PROT_READ)
            for i in range(count // len(self.expected)):
                length = self.rng.choice([1, 511, 512, 4096, 65536, self.rng.randint(1, 300000)])
                offset = self.rng.randrange(len(expected))
                if i % 3 == 0:
                    found = os.pread(cached, length, offset)
                elif i % 3 == 1:
                    found = os.pread(direct, length, offset)
                else:
                    found = mapped[offset:offset + length]
                self.assertEqual(len(found), min(length, len(expected) - offset))
                self.assert_same(name, offset, found)
            self.assertEqual(os.pread(cached, 10, len(expected)), b"")
            self.assertEqual(os.pread(direct, 10, len(expected) + 4096), b"")
            mapped.close()
            os.close(cached)
            os.close(direct)

    def check(self, mount, export):
        self.read_at_random(mount / export, 10000)
        for name in self.expected:
            found = mount.read(f"{export}/{name}", "rb")
            self.assertEqual(len(found), len(self.expected[name]))
            self.assert_same(name, 0, found)

    def test_image_file(self):
        with self.mount(self.image) as mount:
            self.check(mount, os.path.basename(self.image).rpartition(".")[0])

    def test_nbd(self):
        with self.mount(self.server.uri) as mount:
            self.check(mount, "default")

    def test_one_connection(self):
        with self.mount(self.server.uri, options=["-C", "1"]) as mount:
            self.check(mount, "default")

    def test_backing_chain(self):
        top = disks.create(self.path("top.qcow2"), backing=self.image, bitmaps=["top"])
        disks.scribble(top, self.rng, 10)
        disk = disks.raw_bytes(top, self.path("raw"))
        with self.mount(top) as mount:
            export = mount.folders()[0]
            self.assertEqual(mount.read(export + "/disk.raw", "rb"), disk)
            self.assertEqual({f.split(".")[0] for f in os.listdir(mount / (export + "/dirty"))},
                             {"top"})


if __name__ == "__main__":
    lib.main()
