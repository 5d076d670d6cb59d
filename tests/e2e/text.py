#!/usr/bin/env python3
"""The text files: maps, JSON, ddrescue mapfiles and PBM pictures, against nbdinfo and netpbm."""
import json
import os
import re
import shutil

import disks
import lib
from nbdserver import DIRTY, Export, NbdServer

HOLE, ZERO = 1, 2


def parse_map(text):
    """The rows of a .map file, or of `nbdinfo --map`: [(start, end, type, description)]."""
    rows = []
    for line in text.splitlines():
        offset, length, kind, *description = line.split()
        rows.append((int(offset), int(offset) + int(length), int(kind), " ".join(description)))
    return rows


def joined(dirty, alloc):
    """Merges the bitmap with base:allocation, as in a .json file."""
    cuts = sorted({e[0] for e in dirty} | {e[0] for e in alloc} | {dirty[-1][1]})
    rows = []
    for start, end in zip(cuts, cuts[1:]):
        is_dirty = any(s <= start < e and kind & 1 for s, e, kind in dirty)
        is_zero = any(s <= start < e and kind & ZERO for s, e, kind in alloc)
        if rows and (rows[-1]["dirty"], rows[-1]["zero"]) == (is_dirty, is_zero):
            rows[-1]["length"] += end - start
        else:
            rows.append({"start": start, "length": end - start,
                         "dirty": is_dirty, "zero": is_zero})
    return rows


def parse_ddrescue(text):
    """Returns the blocks of a ddrescue mapfile, [(start, end, status)]; checks its first lines."""
    lines = [line.split() for line in text.splitlines() if not line.startswith("#")]
    assert lines[0][0] == "0x00000000" and len(lines[0]) == 3, lines[0]
    return [(int(at, 16), int(at, 16) + int(size, 16), status) for at, size, status in lines[1:]]


def parse_pbm(text):
    """Parses a plain PBM: (width, height, cells as a string, comments)."""
    assert text.startswith("P1\n")
    comments = re.findall("^#(.*)$", text, re.M)
    words = re.sub("#.*", "", text[3:]).split(None, 2)
    return int(words[0]), int(words[1]), re.sub(r"\s", "", words[2]), comments


class Text(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.image = disks.create(os.path.join(self.dir, "vm.qcow2"),
                                  bitmaps=["coarse", ("fine", 512)])
        disks.scribble(self.image, self.rng, 40)
        self.old = self.path("old.raw")
        disks.raw_bytes(self.image, self.old)
        disks.add_bitmap(self.image, "late", 4 * lib.KIB)
        disks.scribble(self.image, self.rng, 10)
        self.granularity = {"coarse": 64 * lib.KIB, "fine": 512, "late": 4 * lib.KIB}
        self.server = self.qemu_nbd(self.image, "-r", "-f", "qcow2", "-A",
                                    *(o for b in self.granularity for o in ("-B", b)))
        self.uri = self.server.uri

    def dirty(self, bitmap):
        return disks.dirty_map(self.uri, bitmap)

    def test_maps(self):
        files = {"disk.map": "base:allocation", "depth.map": "qemu:allocation-depth"}
        files |= {f"dirty/{b}.map": "qemu:dirty-bitmap:" + b for b in self.granularity}
        with self.mount(self.uri) as mount:
            for name, context in files.items():
                text = mount.read("default/" + name)
                self.assertEqual(len({len(line) for line in text.splitlines()}), 1, name)
                rows = parse_map(text)
                told = {row[2]: row[3] for row in
                        parse_map(lib.run("nbdinfo", "--map=" + context, self.uri))}
                self.assertEqual([row[:3] for row in rows], disks.nbd_map(self.uri, context), name)
                self.assertEqual({row[2]: row[3] for row in rows}, told, name)

    def test_json(self):
        alloc = disks.nbd_map(self.uri)
        with self.mount(self.uri) as mount:
            for bitmap in self.granularity:
                text = mount.read(f"default/dirty/{bitmap}.json")
                rows = json.loads(text)
                self.assertEqual(rows, joined(self.dirty(bitmap), alloc), bitmap)
                self.assertEqual(sum('"start"' in line for line in text.splitlines()), len(rows))
            self.assertEqual(mount.json("default/disk.json"), [
                {"start": s, "length": e - s, "zero": bool(kind & ZERO), "hole": bool(kind & HOLE)}
                for s, e, kind in alloc])

    def test_ddrescue(self):
        lib.require("ddrescue")
        with self.mount(self.uri) as mount:
            for bitmap in self.granularity:
                blocks = parse_ddrescue(mount.read(f"default/dirty/{bitmap}.ddrescue"))
                self.assertEqual(blocks, [(s, e, "?+"[kind & 1])
                                          for s, e, kind in self.dirty(bitmap)])
            # From an empty file, and from the state at which the bitmap began.
            empty = self.path("empty.raw")
            with open(empty, "wb") as f:
                f.truncate(disks.ODD_SIZE)
            new = disks.raw_bytes(self.image, self.path("new.raw"))
            for bitmap, start in (("coarse", empty), ("fine", empty), ("late", self.old)):
                copy = shutil.copy(start, self.path("copy.raw"))
                lib.run("ddrescue", "--quiet", "--force",
                        f"--domain-mapfile={mount / 'default/dirty'}/{bitmap}.ddrescue",
                        mount / f"default/dirty/{bitmap}.raw", copy)
                with open(copy, "rb") as f:
                    self.assertEqual(f.read() == new, True, f"{bitmap}: not restored exactly")

    def check_pbm(self, text, dirty, cell):
        width, height, cells, comments = parse_pbm(text)
        size = dirty[-1][1]
        self.assertEqual(len(cells), width * height)
        self.assertLessEqual(max(map(len, text.splitlines())), 70)
        self.assertEqual([int(n) for n in re.findall(r"\d+", comments[0])[:2]], [cell, size])
        expected = bytearray(b"0" * len(cells))
        for start, end, kind in dirty:
            if kind & 1:
                first, last = start // cell, -(-end // cell)
                expected[first:last] = b"1" * (last - first)
        self.assertEqual(cells == expected.decode(), True, "cells")

    def test_pbm(self):
        with self.mount(self.image) as mount:
            for bitmap, cell in self.granularity.items():
                self.check_pbm(mount.read(f"vm/dirty/{bitmap}.pbm"), self.dirty(bitmap), cell)

    def test_pbm_opens(self):
        """netpbm and ImageMagick can open it."""
        lib.require("pnmtopng", "pngtopam", "identify", "convert")
        with self.mount(self.image) as mount:
            for bitmap in self.granularity:
                path, png = mount / f"vm/dirty/{bitmap}.pbm", self.path("png")
                width, height, cells, _ = parse_pbm(mount.read(path))
                self.assertEqual(lib.run("identify", "-format", "%m %w %h", path),
                                 f"PBM {width} {height}")
                by_netpbm = lib.run("sh", "-c", 'pnmtopng "$0" | pngtopam | pamdepth 1 | pnmtoplainpnm',
                                    path)
                by_magick = lib.run("convert", path, "-compress", "none", "pbm:-")
                lib.run("convert", path, png)
                self.assertEqual(lib.run("identify", "-format", "%m %w %h", png),
                                 f"PNG {width} {height}")
                for text in (by_netpbm, by_magick):
                    self.assertTrue(parse_pbm(text)[:3] == (width, height, cells), bitmap)

    def test_pbm_of_unknown_granularity(self):
        size = 10 * lib.MIB + 512
        for cell in (512, 8192, 65536):
            ends = [cell * n for n in (3, 4, 40, 41)] + [size]
            dirty = [(s, e, i & 1) for i, (s, e) in enumerate(zip([0, *ends], ends))]
            server = NbdServer(self, {"": Export(size, lambda o, n: bytes(n), {DIRTY + "b": dirty})})
            with self.mount(server.uri()) as mount:
                self.check_pbm(mount.read("default/dirty/b.pbm"), dirty, cell)

    def test_pbm_is_capped(self):
        size = 16 * lib.TIB
        dirty = [(0, 1 << 30, 0), ((1 << 30), (1 << 30) + 65536, 1), ((1 << 30) + 65536, size, 0)]
        server = NbdServer(self, {"": Export(size, lambda o, n: bytes(n), {DIRTY + "b": dirty})})
        with self.mount(server.uri()) as mount:
            text = mount.read("default/dirty/b.pbm")
        self.assertLess(len(text), 4 * lib.MIB)
        cell = int(re.search(r"\d+", parse_pbm(text)[3][0])[0])
        self.check_pbm(text, dirty, cell)

    def test_pbm_is_what_netpbm_reads(self):
        lib.require("pnmtoplainpnm", "pamfile")
        with self.mount(self.uri) as mount:
            path = mount / "default/dirty/fine.pbm"
            width, height, cells, _ = parse_pbm(mount.read("default/dirty/fine.pbm"))
            self.assertIn(f"{width} by {height}", lib.run("pamfile", path))
            again = self.path("again.pbm")
            with open(again, "w") as f:
                f.write(lib.run("pnmtoplainpnm", path))
            with open(again) as f:
                self.assertEqual(parse_pbm(f.read())[:3], (width, height, cells))


if __name__ == "__main__":
    lib.main()
