#!/usr/bin/env python3
"""Disks in pieces: names, sizes, holes, inodes, reads, readahead, coverage."""
import concurrent.futures
import mmap
import os
import subprocess

import disks
import lib
from nbdserver import READ, Export, NbdServer

PIECE = lib.MIB
SIZE = 12 * PIECE + 70000


class Split(lib.TestCase):
    def setUp(self):
        super().setUp()
        disk = bytearray(self.rng.randbytes(SIZE))
        # Piece 2 is a hole, piece 3 contains one, and one spans pieces 4 and 5.
        self.alloc, at = [], 0
        for start, end in ((2, 3), (3.25, 3.5), (4.75, 5.125)):
            start, end = int(start * PIECE), int(end * PIECE)
            disk[start:end] = bytes(end - start)
            self.alloc += [(at, start, 0), (start, end, 3)]
            at = end
        # The rest is data.
        self.alloc = [e for e in self.alloc if e[0] < e[1]] + [(at, SIZE, 0)]
        self.disk = bytes(disk)
        self.export = Export(SIZE, self.disk, {"base:allocation": self.alloc})
        self.server = NbdServer(self, {"": self.export})
        self.names = [f"{i:06}" for i in range(13)]

    def mount_split(self, *options):
        return self.mount(self.server.uri(), options=["-o", "split=1M", *options])

    def test_pieces_are_the_disk(self):
        with self.mount_split() as mount:
            self.assertEqual(sorted(os.listdir(mount / "default/split")), self.names)
            whole = subprocess.run(f"cat {mount.point}/default/split/*", shell=True, check=True,
                                   stdout=subprocess.PIPE).stdout
            self.assertTrue(whole == self.disk)
            self.assertEqual(mount.json("default/info.json")["split"],
                             {"size": PIECE, "pieces": 13, "changed": 13})
            for i, name in enumerate(self.names):
                start, end = i * PIECE, min(SIZE, (i + 1) * PIECE)
                fd = os.open(mount / f"default/split/{name}", os.O_RDONLY)
                st = os.fstat(fd)
                self.assertEqual(st.st_size, end - start)
                inside = [(max(s, start) - start, min(e, end) - start)
                          for s, e, kind in self.alloc
                          if not kind & 2 and max(s, start) < min(e, end)]
                self.assertEqual(st.st_blocks, -(-sum(e - s for s, e in inside) // 512), name)
                self.assertEqual(disks.seek_walk(fd), inside, name)
                with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped:
                    self.assertTrue(mapped[:] == self.disk[start:end])
                os.close(fd)
                fd = os.open(mount / f"default/split/{name}", os.O_RDONLY | os.O_DIRECT)
                at = self.rng.randrange(end - start)
                self.assertTrue(os.pread(fd, 50000, at) == self.disk[start + at:end][:50000])
                self.assertEqual(os.pread(fd, 4096, end - start), b"")
                os.close(fd)
                self.assertEqual(os.listxattr(mount / f"default/split/{name}"),
                                 ["user.fleecefs.disk_size"] if i == 0 else [])
            self.assertEqual(os.getxattr(mount / "default/split/000000", "user.fleecefs.disk_size"),
                             str(SIZE).encode())

    def test_names_are_exact(self):
        with self.mount_split() as mount:
            for name in ("0", "00000", "0000000", "000013", "000001x", "+00001", " 00001", "-00001"):
                self.assertFalse(os.path.exists(mount / f"default/split/{name}"), name)
            self.assertFalse(os.path.exists(mount / "default/split/000001/x"))

    def test_inodes_are_stable_and_distinct(self):
        def inodes(mount):
            found = {}
            for folder, folders, names in os.walk(mount.point):
                for name in folders + names:
                    path = os.path.join(folder, name)
                    found[os.path.relpath(path, mount.point)] = os.lstat(path).st_ino
            return found
        seen = []
        for _ in range(2):
            with self.mount_split() as mount:
                seen.append(inodes(mount))
                listed = {e.name: e.inode() for e in os.scandir(mount / "default/split")}
                for name, ino in listed.items():
                    self.assertEqual(seen[-1]["default/split/" + name], ino)
        self.assertEqual(len(set(seen[0].values())), len(seen[0]))
        self.assertEqual(seen[0], seen[1])

    def test_sizes(self):
        """The default makes at most 65,536 pieces of at least 4 MiB."""
        for size, piece in ((1, 4 * lib.MIB), (256 * lib.GIB, 4 * lib.MIB),
                            (256 * lib.GIB + 1, 8 * lib.MIB), (lib.TIB, 16 * lib.MIB),
                            (1 << 62, 1 << 46)):
            with self.mount("[", "nbdkit", "null", f"size={size}", "]") as mount:
                count = -(-size // piece)
                info = os.stat(mount / f"default/split/{count - 1:06}")
                self.assertEqual(info.st_size, size - (count - 1) * piece)
                self.assertFalse(os.path.exists(mount / f"default/split/{count:06}"))
                if size == lib.TIB:
                    self.assertEqual(len(os.listdir(mount / "default/split")), 65536)
        for value in ("512K", "3M", "2G", "0", ""):
            self.assert_refused("--split=" + value, "nbd://localhost", self.mkdir("m"), status=2,
                                says=["split"])

    def test_many_at_once(self):
        with self.mount_split() as mount:
            def read(name):
                return mount.read("default/split/" + name, "rb")
            with concurrent.futures.ThreadPoolExecutor(16) as pool:
                self.assertTrue(b"".join(pool.map(read, self.names)) == self.disk)

    def test_no_hole_is_asked_for(self):
        with self.mount_split() as mount:
            os.listdir(mount / "default")
            self.server.requests.clear()
            for name in self.names:
                mount.read("default/split/" + name, "rb")
            holes = [(s, e) for s, e, kind in self.alloc if kind & 2]
            for start, end in self.server.ranges(READ):
                self.assertFalse([h for h in holes if max(h[0], start) < min(h[1], end)])


if __name__ == "__main__":
    lib.main()
