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
        # Data and holes by turns, 4 KiB each.
        size = 4 * lib.GIB
        count = size // 4096
        server = self.nbdkit("sparse-random", f"size={size}", "percent=50", "runlength=4096")
        began = time.monotonic()
        with open(os.devnull, "w") as null:
            subprocess.run(["nbdinfo", "--map", server.uri], stdout=null, check=True)
        reference = time.monotonic() - began
        began = time.monotonic()
        with self.mount(server.uri) as mount:
            took = time.monotonic() - began
            print(f"{count} extents: mounted in {took:.2f} s, nbdinfo --map {reference:.2f} s "
                  f"({took / reference:.2f}x); "
                  f"memory {self.memory(mount.pid, 'VmRSS') / lib.MIB:.1f} MiB, "
                  f"{self.memory(mount.pid, 'VmHWM') / lib.MIB:.1f} MiB at most")
            self.assertEqual(os.stat(mount / "default/disk.raw").st_blocks, size // 2 // 512)
            with open(mount / "default/disk.map") as f:
                self.assertEqual(sum(1 for _ in f), count)
            self.assertLess(self.memory(mount.pid, "VmRSS"), 24 * count + 30 * lib.MIB)

    def test_largest_sizes(self):
        for size in ((1 << 63) - 1, (1 << 63) - 512, 1 << 62, 1):
            with self.subTest(size=size):
                contexts = {"base:allocation": [(0, size, 3)], DIRTY + "b": [(0, size, 1)]}
                server = NbdServer(self, {"": Export(size, lambda o, n: bytes(n), contexts)})
                with self.mount(server.uri()) as mount:
                    for name in ("default/disk.raw", "default/dirty/b.raw"):
                        self.assertEqual(os.stat(mount / name).st_size, size)
                        with open(mount / name, "rb") as f:
                            f.seek(size - 1)
                            self.assertEqual(f.read(10), b"\0")
                    self.assertEqual(mount.read("default/disk.map").split()[:3],
                                     ["0", str(size), "3"])
                    self.assertEqual(mount.json("default/dirty/b.json"),
                                     [{"start": 0, "length": size, "dirty": True, "zero": True}])


if __name__ == "__main__":
    lib.main()
