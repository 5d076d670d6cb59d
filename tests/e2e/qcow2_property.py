#!/usr/bin/env python3
"""The qcow2 view against stock qemu-img, on random disks; no mount is needed.

Environment: QCOW2_WRITE is the program that writes a view to a file, ROUNDS the number of random
disks; LONG=1 adds what takes gigabytes.
"""
import json
import os
import shutil

import lib
from lib import KIB, MIB, TIB, run

SECTOR = 512
ROUNDS = int(os.environ.get("ROUNDS", "6"))
WRITE = os.environ.get("QCOW2_WRITE", "build/tests/unit/qcow2-write")
GENERATIONS = 6  # a full one and five increments
DATA, ZERO, CLEAN = "data", "zero", "clean"


def qemu_json(*args):
    return json.loads(run("qemu-img", *args, "--output=json"))


def write_view(map_path, disk, out, *options, may_refuse=False):
    """Returns the view's description; None if it MAY_REFUSE and did."""
    done = lib.attempt(WRITE, *options, map_path, disk, out)
    if may_refuse and done.returncode == 1:
        return None
    if done.returncode != 0:
        raise AssertionError(f"exit status {done.returncode}: {done.stderr}")
    return json.loads(done.stdout)


def read_padded(path):
    """Returns a raw disk as QEMU sees it, padded to whole sectors."""
    with open(path, "rb") as f:
        data = f.read()
    return data + bytes(-len(data) % SECTOR)


class Guest:
    """A disk, its dirty bitmap, and the ranges that the server reports as zeros."""

    def __init__(self, rng, size, granularity, zero_block):
        self.rng, self.granularity, self.zero_block = rng, granularity, zero_block
        self.data = bytearray(size)
        self.clear_bitmap()

    def clear_bitmap(self):
        self.dirty = set()

    def write(self, offset, data):
        self.data[offset:offset + len(data)] = data
        end = offset + len(data)
        self.dirty.update(range(offset // self.granularity, (end - 1) // self.granularity + 1))

    def act(self):
        """Applies a guest's request: new data, the same data again, zeros, or a discard."""
        unit = self.rng.choice([1, SECTOR, SECTOR, 4 * KIB, 64 * KIB])
        units = max(1, len(self.data) // unit)
        offset = min(self.rng.randrange(units) * unit, len(self.data) - 1)
        length = min(self.rng.choice([1, 1, 2, 5, 30]) * unit, len(self.data) - offset)
        kind = self.rng.choice(["new", "new", "same", "zero", "zero"])
        if kind == "new":
            self.write(offset, self.rng.randbytes(length))
        elif kind == "same":
            self.write(offset, bytes(self.data[offset:offset + length]))
        else:
            self.write(offset, bytes(length))

    def sectors(self):
        """Returns (dirty, zero) of each sector; the last one may be short."""
        count = -(-len(self.data) // SECTOR)
        dirty = [i * SECTOR // self.granularity in self.dirty for i in range(count)]
        zero = [False] * count
        per_block = self.zero_block // SECTOR
        for block in range(0, count, per_block):
            # A server may not report all zeros.
            if self.rng.random() < 0.9:
                end = (block + per_block) * SECTOR
                is_zero = not self.data[block * SECTOR:end].strip(b"\0")
                zero[block:block + per_block] = [is_zero] * len(zero[block:block + per_block])
        return list(zip(dirty, zero))

    def write_map(self, path, sectors):
        with open(path, "w") as f:
            for i, (dirty, zero) in enumerate(sectors):
                length = min(SECTOR, len(self.data) - i * SECTOR)
                f.write(f"{length} {'d' * dirty}{'z' * zero}-\n")


def expected_kinds(sectors, cluster_size, whole):
    """Returns the expected kind of each cluster of the image."""
    per_cluster = cluster_size // SECTOR
    kinds = []
    for i in range(0, len(sectors), per_cluster):
        cluster = sectors[i:i + per_cluster]
        dirty = whole or any(d for d, _ in cluster)
        zero = all(z for _, z in cluster)
        kinds.append(CLEAN if not dirty or (zero and whole) else ZERO if zero else DATA)
    return kinds


def mapped_kinds(image, cluster_size):
    """Returns the same from qemu-img map, without a backing file; and the data's offsets."""
    kinds, offsets = [], []
    for e in qemu_json("map", "-f", "qcow2", image):
        assert e["start"] % cluster_size == 0, e
        assert e["start"] // cluster_size == len(kinds), e
        count = -(-e["length"] // cluster_size)
        if e["data"]:
            assert not e["zero"], e
            offsets += [e["offset"] + i * cluster_size for i in range(count)]
        kinds += [DATA if e["data"] else ZERO if e["present"] else CLEAN] * count
    return kinds, offsets


class Qcow2(lib.TestCase):
    def setUp(self):
        lib.require("qemu-img")
        super().setUp()
        self.root = self.mkdir("root")

    def at(self, *names):
        """Returns the path of a file; creates its folders."""
        path = os.path.join(self.root, *names)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def check(self, image):
        report = qemu_json("check", "-f", "qcow2", "-U", image)
        for key in "corruptions", "leaks", "check-errors":
            self.assertFalse(report.get(key), report)
        self.assertEqual(report["image-end-offset"], os.path.getsize(image))

    def check_info(self, image, size, done, backing=None):
        info = qemu_json("info", "-f", "qcow2", image)
        self.assertEqual(info["format"], "qcow2")
        self.assertEqual(info["virtual-size"], -(-size // SECTOR) * SECTOR)
        self.assertEqual(info["virtual-size"], done["virtual_size"])
        self.assertEqual(info["cluster-size"], done["cluster_size"])
        self.assertEqual(info.get("backing-filename"), backing)
        self.assertEqual(info.get("backing-filename-format"), backing and "raw")
        special = info["format-specific"]["data"]
        self.assertEqual(special["compat"], "1.1")
        self.assertEqual(special["refcount-bits"], 16)
        self.assertFalse(special["corrupt"])

    def check_map(self, image, sectors, done, whole):
        cluster_size = done["cluster_size"]
        kinds, offsets = mapped_kinds(image, cluster_size)
        self.assertEqual(kinds, expected_kinds(sectors, cluster_size, whole))
        data_start = done["size"] - len(offsets) * cluster_size
        self.assertEqual(offsets, [data_start + i * cluster_size for i in range(len(offsets))])

    def assert_content(self, image, raw):
        out = self.at("converted.raw")
        run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, out)
        with open(out, "rb") as f:
            self.assertTrue(f.read() == read_padded(raw), f"{image} differs from {raw}")

    def save_generation(self, guest, name, options):
        """Lays out one export as the mount does; returns the map of its increment."""
        disk = self.at(name, "disk.raw")
        map_path = self.at(name, "map")
        image = self.at(name, "dirty", "b.qcow2")
        whole = self.at(name, "disk.qcow2")
        bare = self.at(name, "bare.qcow2")
        with open(disk, "wb") as f:
            f.write(guest.data)
        sectors = guest.sectors()
        guest.write_map(map_path, sectors)

        done = write_view(map_path, disk, whole, "--whole")
        self.assertEqual(done["cluster_size"], 64 * KIB)
        self.check(whole)
        self.check_info(whole, len(guest.data), done)
        self.check_map(whole, sectors, done, True)
        self.assert_content(whole, disk)

        done = write_view(map_path, disk, image, "--backing", "../disk.raw", "--backing-fmt", "raw",
                          *options)
        self.check(image)
        self.check_info(image, len(guest.data), done, "../disk.raw")
        compared = run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, disk)
        self.assertIn("identical", compared)
        again = self.at(name, "again.qcow2")
        write_view(map_path, disk, again, "--backing", "../disk.raw", "--backing-fmt", "raw",
                   *options)
        with open(image, "rb") as a, open(again, "rb") as b:
            self.assertTrue(a.read() == b.read(), "two runs differ")

        done = write_view(map_path, disk, bare, *options)
        self.check(bare)
        self.check_info(bare, len(guest.data), done)
        self.check_map(bare, sectors, done, False)
        return done

    def check_exact(self, guest, name, options):
        """If the server refuses clean ranges, the view reads none, or is refused."""
        disk, map_path = self.at(name, "disk.raw"), self.at(name, "map")
        out = self.at(name, "exact.qcow2")
        given = "--cluster-size" in options
        done = write_view(map_path, disk, out, "--exact", *options, may_refuse=given)
        if done is not None:
            self.check(out)
        else:
            self.assertGreater(int(options[1]), guest.granularity)

    def restore_chain(self, names):
        """Stacks copies of the increments: each must restore its generation."""
        previous = self.at("chain", names[0] + ".qcow2")
        shutil.copy(self.at(names[0], "disk.qcow2"), previous)
        for name in names[1:]:
            copied = self.at("chain", name + ".qcow2")
            shutil.copy(self.at(name, "dirty", "b.qcow2"), copied)
            lost = lib.attempt("qemu-img", "convert", "-f", "qcow2", "-O", "raw", copied,
                               self.at("lost.raw"))
            self.assertEqual(lost.returncode, 1)
            self.assertIn("disk.raw", lost.stderr)
            run("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", previous, copied)
            previous = copied
        for name in names:
            image = self.at("chain", name + ".qcow2")
            self.check(image)
            self.assert_content(image, self.at(name, "disk.raw"))

    def one_case(self, size, granularity, zero_block, options):
        self.root = self.mkdir("case")
        guest = Guest(self.rng, size, granularity, zero_block)
        names = [f"gen{i}" for i in range(GENERATIONS)]
        for name in names:
            guest.clear_bitmap()
            for _ in range(self.rng.choice([0, 1, 4, 20])):
                guest.act()
            self.save_generation(guest, name, options)
            self.check_exact(guest, name, options)
        self.restore_chain(names)
        shutil.rmtree(self.root)

    def test_random_disks(self):
        for i in range(ROUNDS):
            size = self.rng.choice([self.rng.randrange(1, 4 * MIB), self.rng.randrange(1, 3000),
                                    self.rng.randrange(1, 8 * KIB) * SECTOR])
            granularity = 1 << self.rng.randrange(9, 22)
            zero_block = 1 << self.rng.randrange(9, 17)
            options = []
            if i % 2 == 0:
                options = ["--cluster-size", 1 << self.rng.randrange(9, 22)]
            elif self.rng.random() < 0.5:
                options = ["--granularity", granularity]
            with self.subTest(case=i, size=size, granularity=granularity,
                              zero_block=zero_block, options=options):
                self.one_case(size, granularity, zero_block, options)

    def test_every_cluster_size(self):
        for bits in range(9, 22):
            with self.subTest(bits=bits):
                guest = Guest(self.rng, 3 * MIB + 1234, 1 << bits, 4 * KIB)
                for _ in range(20):
                    guest.act()
                done = self.save_generation(guest, "gen", ["--cluster-size", 1 << bits])
                self.assertEqual(done["cluster_size"], 1 << bits)

    def test_patterns(self):
        """All dirty, none, every other granule; and the smallest disks."""
        for size in 1, 511, 512, 513, 65536, 1000000:
            for every in 0, 1, 2:
                with self.subTest(size=size, every=every):
                    guest = Guest(self.rng, size, 4 * KIB, 4 * KIB)
                    for at in range(0, size if every else 0, 4 * KIB * (every or 1)):
                        guest.write(at, self.rng.randbytes(min(4 * KIB, size - at)))
                    self.save_generation(guest, "gen", [])
                    self.check_exact(guest, "gen", [])
                    self.check_exact(guest, "gen", ["--cluster-size", 64 * KIB])

    def test_empty_disk(self):
        with open(self.at("map"), "w"):
            pass
        write_view(self.at("map"), "-", self.at("out"), "--whole")
        self.check(self.at("out"))

    def test_no_allocation_map(self):
        guest = Guest(self.rng, MIB, 4 * KIB, 4 * KIB)
        guest.write(0, self.rng.randbytes(5000))
        guest.write(300000, bytes(5000))
        done = self.save_generation(guest, "gen", [])
        self.assertEqual(done["cluster_size"], 4 * KIB)
        out = self.at("out.qcow2")
        done = write_view(self.at("gen", "map"), self.at("gen", "disk.raw"), out, "--no-alloc")
        sectors = [(d, False) for d, _ in guest.sectors()]
        self.check(out)
        self.check_map(out, sectors, done, False)

    def test_end_of_64_tib(self):
        map_path, out = self.at("map"), self.at("out.qcow2")
        with open(map_path, "w") as f:
            f.write(f"{64 * TIB - 65536} -\n65536 d\n")
        done = write_view(map_path, "-", out)
        self.assertEqual(done["virtual_size"], 64 * TIB)
        self.check(out)
        with open(out, "r+b") as f:
            f.seek(done["size"] - 65536)
            f.write(self.rng.randbytes(65536))
        last = qemu_json("map", "-f", "qcow2", out)[-1]
        self.assertEqual((last["start"], last["length"], last["data"], last["offset"]),
                         (64 * TIB - 65536, 65536, True, done["size"] - 65536))

    def test_largest_disk(self):
        map_path, out = self.at("map"), self.at("out.qcow2")
        with open(map_path, "w") as f:
            f.write(f"{2048 * 1024 * TIB - 512} -\n512 d\n")
        done = write_view(map_path, "-", out, "--cluster-size", "2M")
        self.check(out)
        info = qemu_json("info", "-f", "qcow2", out)
        self.assertEqual(info["virtual-size"], done["virtual_size"])
        with open(map_path, "w") as f:
            f.write(f"{2048 * 1024 * TIB} -\n512 d\n")
        self.assertIsNone(write_view(map_path, "-", out, may_refuse=True))

    def test_16_tib_with_1_percent_dirty(self):
        check = os.environ.get("LONG") == "1"
        out = self.at("out.qcow2") if check else "-"
        done = write_view("random:16T:64K:10", "-", out, "--exact")
        print(f"16 TiB, 1%: {done}", flush=True)
        self.assertLess(done["view_rss_kib"], 24 * done["extents"] / 2 / 1024 + 4096)
        if check:
            self.check(out)

    def test_ext4(self):
        """A file system that changes between backups is consistent after the restore."""
        lib.require("mkfs.ext4", "debugfs", "e2fsck")
        live, source = self.at("live.raw"), self.at("source", "etc", "fstab")
        with open(source, "w") as f:
            f.write("/dev/vda / ext4\n")
        with open(live, "wb") as f:
            f.truncate(24 * MIB)
        run("mkfs.ext4", "-q", "-F", "-d", self.at("source"), live)

        guest = Guest(self.rng, 24 * MIB, 64 * KIB, 4 * KIB)
        names, files = [], {}
        for i in range(4):
            if i > 0:
                files[f"file{i}"] = self.rng.randbytes(self.rng.randrange(1, 600000))
                with open(self.at("new"), "wb") as f:
                    f.write(files[f"file{i}"])
                run("debugfs", "-w", "-R", f"write {self.at('new')} file{i}", live)
            if i == 3:
                run("debugfs", "-w", "-R", "rm file1", live)
                del files["file1"]
            with open(live, "rb") as f:
                now = f.read()
            guest.clear_bitmap()
            for at in range(0, len(now), 64 * KIB):
                if now[at:at + 64 * KIB] != guest.data[at:at + 64 * KIB]:
                    guest.write(at, now[at:at + 64 * KIB])
            names.append(f"gen{i}")
            self.save_generation(guest, names[-1], [])

        self.restore_chain(names)
        restored = self.at("restored.raw")
        run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", self.at("chain", "gen3.qcow2"),
            restored)
        run("e2fsck", "-fn", restored)
        listing = run("debugfs", "-R", "ls", restored)
        self.assertNotIn("file1", listing)
        for name, content in files.items():
            got = self.at("got")
            run("debugfs", "-R", f"dump {name} {got}", restored)
            with open(got, "rb") as f:
                self.assertTrue(f.read() == content, name)


if __name__ == "__main__":
    lib.main()
