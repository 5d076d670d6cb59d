#!/usr/bin/env python3
"""Many readers at once of random disks, with random options, while connections drop.

ROUNDS in the environment says how many disks.
"""
import concurrent.futures
import os
import random

import disks
import lib
from nbdserver import DIRTY, Export, HangUp, NbdServer

ROUNDS = int(os.environ.get("ROUNDS", "2"))
READERS, READS = 6, 150


class Soak(lib.TestCase):
    def random_export(self, size):
        """A disk of random extents, and what its two raw files read as."""
        cuts = sorted({0, size, *(self.rng.randrange(0, size, 512)
                                  for _ in range(self.rng.choice([3, 50, 2000])))})
        alloc = [(s, e, self.rng.choice([0, 0, 2, 3])) for s, e in zip(cuts, cuts[1:])]
        dirty = [(s, e, self.rng.choice([0, 1])) for s, e in zip(cuts, cuts[1:])]
        disk = bytearray(self.rng.randbytes(size))
        for start, end, kind in alloc:
            if kind & 2:
                disk[start:end] = bytes(end - start)
        export = Export(size, bytes(disk), {"base:allocation": alloc, DIRTY + "b": dirty})
        drops = random.Random(self.rng.random())

        def drop_sometimes(offset, length):
            if drops.random() < 0.01:
                raise HangUp
        export.on_read = drop_sometimes
        return export, {"disk.raw": bytes(disk), "dirty/b.raw": disks.masked(disk, dirty)}

    def read_at_random(self, mount, contents, seed):
        rng = random.Random(seed)
        name, expected = rng.choice(sorted(contents.items()))
        fd = os.open(mount / ("default/" + name), os.O_RDONLY | rng.choice([0, os.O_DIRECT]))
        at = 0
        for _ in range(READS):
            length = rng.choice([512, 4096, 131072, rng.randint(1, 1 << 20)])
            # Most readers go on where they were, as most do.
            at = (at + length) % len(expected) if rng.random() < 0.7 else \
                rng.randrange(len(expected))
            try:
                found = os.pread(fd, length, at)
            except OSError as error:
                return f"{name}: {error} at {at}: {mount.read('.fleecefs/status.json')}"
            if found != expected[at:at + length]:
                return f"{name}: wrong bytes at {at}, {length} long"
        os.close(fd)
        return None

    def test_readers(self):
        for _ in range(ROUNDS):
            size = self.rng.choice([512, 100 * 512, 3 * lib.MIB + 512, 24 * lib.MIB])
            export, contents = self.random_export(size)
            server = NbdServer(self, {"": export})
            options = ["-C", self.rng.choice([1, 2, 4, 8]), "-o",
                       f"cache={self.rng.choice(['1M', '8M', '64M'])},"
                       f"readahead={self.rng.choice(['0', '256K', '16M'])}"]
            print(f"{size} bytes, {len(export.contexts[DIRTY + 'b'])} ranges, {options}", flush=True)
            with self.mount(server.uri(), options=options) as mount:
                with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
                    readers = [pool.submit(self.read_at_random, mount, contents, self.rng.random())
                               for _ in range(READERS)]
                    self.assertEqual({r.result(4 * lib.PATIENCE) for r in readers}, {None})
            server.stop()


if __name__ == "__main__":
    lib.main()
