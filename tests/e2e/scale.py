#!/usr/bin/env python3
"""A million extents, and the largest sizes: time and memory."""
import os
import subprocess
import time

import lib
from nbdserver import DIRTY, Export, NbdServer


class Scale(lib.TestCase):
    @staticmethod
    def memory(pid, key):
        with open(f"/proc/{pid}/status") as f:
            return next(int(line.split()[1]) * 1024 for line in f if line.startswith(key + ":"))

    def test_a_million_extents(self):
        # Alternating data and holes, 4 KiB each.
        size = 4 * lib.GIB
        count = size // 4096
        server = self.nbdkit("sparse-random", f"size={size}", "percent=50", "runlength=4096")
        began = time.monotonic()
        with open(os.devnull, "w") as null:
            subprocess.run(["nbdinfo", "--map", server.uri], stdout=null, check=True)
        reference = time.monotonic() - began
        began = time.monotonic()
        with self.mount(server.uri) as mount:
            os.stat(mount / "default/disk.map")  # which loads the maps
            took = time.monotonic() - began
            print(f"{count} extents: mounted and loaded in {took:.2f} s, nbdinfo --map {reference:.2f} s "
                  f"({took / reference:.2f}x); "
                  f"memory {self.memory(mount.pid, 'VmRSS') / lib.MIB:.1f} MiB, "
                  f"{self.memory(mount.pid, 'VmHWM') / lib.MIB:.1f} MiB at most")
            self.assertEqual(os.stat(mount / "default/disk.raw").st_blocks, size // 2 // 512)
            with open(mount / "default/disk.map") as f:
                self.assertEqual(sum(1 for _ in f), count)
            self.assertLess(self.memory(mount.pid, "VmRSS"), 24 * count + 30 * lib.MIB)

    def check_size(self, size, contexts):
        server = NbdServer(self, {"": Export(size, lambda o, n: bytes(n), contexts)})
        with self.mount(server.uri()) as mount:
            for name in (f for f in mount.files() if f.endswith(".raw")):
                st = os.stat(mount / name)
                self.assertEqual(st.st_size, size)
                fd = os.open(mount / name, os.O_RDONLY)
                # The kernel itself refuses to read on past 2^63.
                self.assertEqual(os.pread(fd, 1, size - 1), b"\0")
                os.close(fd)
            if contexts:
                self.assertEqual(mount.read("default/disk.map").split()[:3], ["0", str(size), "3"])
                self.assertEqual(mount.json("default/dirty/b.json"),
                                 [{"start": 0, "length": size, "dirty": True, "zero": True}])
                self.assertEqual(os.stat(mount / "default/disk.raw").st_blocks, 0)
                self.assertEqual(os.stat(mount / "default/dirty/b.raw").st_blocks,
                                 -(-size // 512))

    def test_sizes(self):
        # With 32-bit block status, a map takes size / 4 GiB requests.
        for size in (1, 511, (1 << 32) - 1, 1 << 32, 16 * lib.TIB + 1):
            with self.subTest(size=size):
                self.check_size(size, {"base:allocation": [(0, size, 3)],
                                       DIRTY + "b": [(0, size, 1)]})

    def test_largest_sizes(self):
        for size in ((1 << 63) - 1, (1 << 63) - 512, 1 << 62):
            with self.subTest(size=size):
                self.check_size(size, {})


if __name__ == "__main__":
    lib.main()
