#!/usr/bin/env python3
"""Requests to the server: none for holes and zeros, no clean bytes for dirty-only files."""
import errno
import json
import os
import random

import disks
import lib
from nbdserver import BLOCK_STATUS, DIRTY, READ, Export, NbdServer

SIZE = 64 * lib.MIB + 512
BITMAP = DIRTY + "b"


def random_map(rng, kinds, grain=4 * lib.KIB):
    """Extents over SIZE bytes whose types are drawn from KINDS, neighbours merged."""
    extents, at = [], 0
    while at < SIZE:
        end = min(SIZE, at + grain * rng.choice([1, 1, 2, 16, 100]))
        kind = rng.choice(kinds)
        if extents and extents[-1][2] == kind:
            extents[-1] = (extents[-1][0], end, kind)
        else:
            extents.append((at, end, kind))
        at = end
    return extents


def covered(ranges, allowed):
    """Whether every byte of RANGES lies in ALLOWED (sorted, disjoint, not touching)."""
    return all(any(s <= start and end <= e for s, e in allowed) for start, end in ranges)


def intersection(a, b):
    """The ranges that lie in both of two lists of ranges, neighbours merged."""
    cut = sorted((max(s, t), min(e, f)) for s, e in a for t, f in b if max(s, t) < min(e, f))
    return disks.data_ranges([(s, e, 1) for s, e in cut], bool)


class Requests(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.alloc = random_map(self.rng, [0, 0, 2, 3])
        self.dirty = random_map(self.rng, [0, 0, 1])
        self.data = disks.data_ranges(self.alloc, lambda kind: not kind & 2)
        self.dirty_data = intersection(
            self.data, disks.data_ranges(self.dirty, lambda kind: kind & 1))
        disk = bytearray(random.Random(self.rng.random()).randbytes(SIZE))
        for start, end, kind in self.alloc:
            if kind & 2:
                disk[start:end] = bytes(end - start)
        self.disk = bytes(disk)
        self.export = Export(SIZE, self.disk,
                             {"base:allocation": self.alloc, BITMAP: self.dirty})
        self.server = NbdServer(self, {"": self.export})

    def reads_of(self, mount, name, expected):
        """Reads a file completely and in parts; returns the ranges requested from the server."""
        self.server.requests.clear()
        for flags in (0, os.O_DIRECT):
            fd = os.open(mount / name, os.O_RDONLY | flags)
            for _ in range(300):
                at, length = self.rng.randrange(SIZE), self.rng.randint(1, 200000)
                self.assertEqual(os.pread(fd, length, at) == expected[at:at + length], True)
            os.close(fd)
        self.assertEqual(mount.read(name, "rb") == expected, True)
        return self.server.ranges(READ)

    def test_disk(self):
        with self.mount(self.server.uri()) as mount:
            asked = self.reads_of(mount, "default/disk.raw", self.disk)
            self.assertTrue(asked)
            self.assertTrue(covered(asked, self.data), "a hole was asked for")

    def test_dirty(self):
        def refuse(offset, length):
            if not covered([(offset, offset + length)], self.dirty_data):
                raise OSError(errno.EINVAL, "clean")
        self.export.on_read = refuse
        with self.mount(self.server.uri()) as mount:
            asked = self.reads_of(mount, "default/dirty/b.raw",
                                  disks.masked(self.disk, self.dirty))
            self.assertTrue(asked)

    def test_page_cache(self):
        """Data is read only once, except with direct_io, which bypasses the cache."""
        for options, again in ((["-o", "readahead=0"], False),
                               (["-o", "readahead=0,direct_io"], True)):
            with self.mount(self.server.uri(), options=options) as mount, \
                    open(mount / "default/disk.raw", "rb", buffering=0) as f:
                for seen in (True, again):
                    self.server.requests.clear()
                    # With lseek, too: caching does not change data and holes.
                    for start, end in ((0, 64 * lib.KIB), self.data[-1]):
                        at = os.lseek(f.fileno(), start, os.SEEK_DATA)
                        self.assertEqual(at, next(max(start, s) for s, e in self.data if e > start))
                        end = max(end, at + 1)
                        got = os.pread(f.fileno(), end - at, at)
                        self.assertEqual(got, self.disk[at:at + len(got)])
                        self.assertEqual(len(got), end - at)
                    self.assertEqual(seen, bool(self.server.ranges(READ)))

    def test_no_status_of_clean_ranges(self):
        """QEMU's snapshot-access answers neither reads nor base:allocation of clean ranges."""
        allowed = disks.data_ranges(self.dirty, lambda kind: kind & 1)

        def refuse(offset, length):
            if not covered([(offset, offset + length)], allowed):
                raise OSError(errno.EINVAL, "clean")

        def refuse_status(context, offset, length):
            if context == "base:allocation":
                refuse(offset, length)
        self.export.on_read, self.export.on_status = refuse, refuse_status
        with self.mount(self.server.uri()) as mount:
            os.listdir(mount / "default")  # does not search for partitions
            self.reads_of(mount, "default/dirty/b.raw", disks.masked(self.disk, self.dirty))
            self.assertTrue(covered(self.server.ranges(READ), allowed))
            self.assertEqual(mount.json(".fleecefs/status.json")["exports"][0]["errors"], 0)
            zero = {(r["start"], r["start"] + r["length"])
                    for r in mount.json("default/dirty/b.json") if r["dirty"] and r["zero"]}
            expected = intersection(
                allowed, disks.data_ranges(self.alloc, lambda kind: kind & 2))
            self.assertEqual(sorted(zero), expected)

    def test_text_asks_nothing(self):
        with self.mount(self.server.uri()) as mount:
            names = mount.files()
            os.stat(mount / "default/disk.raw")  # which loads the maps
            # Listing the folder has read the partition table.
            self.assertTrue(covered(self.server.ranges(READ), [(0, 64 * lib.KIB)]))
            self.server.requests.clear()
            for name in names:
                if not name.endswith((".raw", ".qcow2")):
                    mount.read(name, "rb")
            self.assertEqual(self.server.requests, [])

    def test_maps_are_asked_for_once(self):
        with self.mount(self.server.uri()) as mount:
            for name in mount.files():
                os.stat(mount / name)
            asked = self.server.ranges(BLOCK_STATUS)
            # At most twice per byte: in a request for all contexts, and in a retry.
            self.assertLessEqual(sum(end - start for start, end in asked), 2 * SIZE + (1 << 32))

    def test_huge_holes_cost_nothing(self):
        size = 16 * lib.TIB
        with self.mount("[", "nbdkit", "null", f"size={size}", "]") as mount:
            fd = os.open(mount / "default/disk.raw", os.O_RDONLY)
            self.assertEqual(os.fstat(fd).st_size, size)
            self.assertEqual(os.fstat(fd).st_blocks, 0)
            self.assertEqual(disks.seek_walk(fd), [])
            self.assertEqual(os.pread(fd, 65536, size - 65536), bytes(65536))
            os.close(fd)

    @staticmethod
    def has_64_bits(uri):
        """Whether both libnbd, according to its tool, and the server at URI support extended headers."""
        return json.loads(lib.run("nbdinfo", "--json", uri)).get("extended", False)

    def test_extents_of_64_bits(self):
        """If libnbd and the server support them, a huge disk takes few requests."""
        size = 8 << 40
        contexts = {"base:allocation": [(0, size, 3)],
                    DIRTY + "b": [(0, 6 << 40, 0), (6 << 40, size, 1)]}
        for extended in (False, True):
            with self.subTest(extended=extended):
                server = NbdServer(self, {"": Export(size, lambda offset, length: bytes(length),
                                                     contexts)})
                server.extended = extended
                with self.mount(server.uri()) as mount:
                    rows = [line.split()[:3] for line in
                            mount.read("default/dirty/b.map").splitlines()]
                    self.assertEqual(rows, [["0", str(6 << 40), "0"],
                                            [str(6 << 40), str(2 << 40), "1"]])
                if not extended:
                    continue
                used, asked = server.extended == "used", len(server.ranges(BLOCK_STATUS))
                self.assertEqual(used, self.has_64_bits(server.uri()))
                if used:
                    self.assertLess(asked, 64)

    def test_extents_of_64_bits_from_qemu(self):
        """The same with a real server, which logs requests."""
        size, asked = 8 << 40, "type = 7 (block status)"
        image = disks.create(self.path("vm.qcow2"), size, [("b", 64 * lib.MIB)])
        disks.qemu_io(image, ["write -q 4T 64k"])
        server = self.qemu_nbd(image, "--read-only", "--bitmap=b", "--trace",
                               "nbd_co_receive_request_decode_type")
        extended = self.has_64_bits(server.uri)
        before = server.output().count(asked)
        with self.mount(server.uri) as mount:
            rows = [line.split()[:3] for line in mount.read("default/dirty/b.map").splitlines()]
            self.assertEqual(rows, [["0", str(4 << 40), "0"], [str(4 << 40), str(64 << 20), "1"],
                                    [str((4 << 40) + (64 << 20)), str((4 << 40) - (64 << 20)), "0"]])
        requests = server.output().count(asked) - before
        print(f"{requests} requests", end=" ", flush=True)
        self.assertGreater(requests, 0)
        if extended:
            self.assertLess(requests, 100)


if __name__ == "__main__":
    lib.main()
