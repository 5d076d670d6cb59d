#!/usr/bin/env python3
"""Malicious servers: each causes either an error or a correct tree, quickly and in little memory."""
import errno
import itertools
import os
import re
import struct
import threading
import time

import lib
from nbdserver import BLOCK_STATUS, DIRTY, Export, HangUp, NbdServer

SIZE = 4 * lib.MIB
ALLOCATION = "base:allocation"
# Limits of time and memory for each test, without sanitizers. Tests take a few seconds, which are
# printed; a busy machine stays below the limit, a daemon that hangs exceeds it.
SLOW = 60
FAT = 200 * lib.MIB


def descriptors(*extents):
    return b"".join(struct.pack(">II", length, kind) for length, kind in extents)


class Hostile(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.disk = self.rng.randbytes(SIZE)
        self.export = Export(SIZE, self.disk, {ALLOCATION: [(0, SIZE, 0)],
                                               DIRTY + "b": [(0, SIZE, 1)]})
        self.server = NbdServer(self, {"": self.export})
        self.began = time.monotonic()

    def mounted(self, *options):
        """With the usual patience: what has to be correct may be slow on a busy machine."""
        return self.mount(self.server.uri(), options=options)

    def check_cost(self, mount):
        """Checks that time and memory so far are within limits, and that the daemon still responds."""
        with open(f"/proc/{mount.pid}/status") as f:
            peak = int(re.search(r"VmHWM:\s+(\d+) kB", f.read())[1]) * lib.KIB
        took = time.monotonic() - self.began
        print(f"{took:.1f} s, {peak / lib.MIB:.0f} MiB", flush=True)
        mount.json(".fleecefs/status.json")
        if not lib.SANITIZED:
            self.assertLess(peak, FAT)
            self.assertLess(took, SLOW)

    def end(self, mount):
        """Checks the cost of a mount, then unmounts it."""
        self.check_cost(mount)
        mount.unmount()

    def check_stat_fails(self, name="default/disk.raw"):
        """Mounts; stat of the file fails with EIO, while the root can still be listed."""
        mount = self.mount(self.server.uri(), options=["-o", "timeout=2,reconnect=2"])
        self.assert_errno(errno.EIO, os.stat, mount / name)
        self.assertEqual(mount.folders(), ["default"])
        self.end(mount)

    def read(self, mount, length, offset=0):
        return lib.read_direct(mount / "default/disk.raw", length, offset)

    # Block status

    def test_empty_status(self):
        for what, said in {"empty": [], "no progress": [(0, 0)],
                           "a broken descriptor": b"\0" * 12}.items():
            with self.subTest(what):
                self.began = time.monotonic()
                self.export.on_status = lambda context, offset, length, said=said: said
                self.check_stat_fails()

    def test_extents_of_length_zero(self):
        """They are ignored."""
        self.export.on_status = lambda context, offset, length: [(4096, 0), (0, 1), (4096, 0)]
        mount = self.mounted()
        self.assertEqual(len(mount.read("default/disk.map").splitlines()), 1)
        self.assertEqual(self.read(mount, SIZE) == self.disk, True)
        self.end(mount)

    def test_status_with_minimal_progress(self):
        """One byte per reply on a disk of a petabyte: without a limit, loading would never end."""
        self.export.size = 1 << 50
        self.export.on_status = lambda context, offset, length: [(1, 0)]
        self.check_stat_fails()

    def slow_status(self, seconds):
        """Delays each reply, without limit of time or memory."""
        never = threading.Event()

        def status(context, offset, length):
            never.wait(seconds / 2)  # for each of the two contexts
            return [(length, 0)]
        self.export.on_status = status

    def test_a_long_walk(self):
        """A huge disk takes longer than timeout and reconnect together, with an answer now and then."""
        requests = 250
        self.export.size = requests * (2 * lib.GIB)
        self.slow_status(0.03)
        mount = self.mounted("-o", "timeout=3,reconnect=0")
        self.assertEqual(os.stat(mount / "default/disk.raw").st_blocks, self.export.size // 512)
        self.assertEqual(len(self.server.ranges(BLOCK_STATUS)), requests)
        self.end(mount)

    def test_a_walk_without_end(self):
        """Each reply is in time, but a disk of a petabyte would take a day."""
        self.export.size = 1 << 50
        self.slow_status(0.2)
        self.check_stat_fails()

    def test_extents_without_end(self):
        """Replies of maximum length for a disk of maximum size."""
        self.export.size = 1 << 50
        many = descriptors((1, 0), (1, 1)) * (1 << 19)
        self.export.on_status = lambda context, offset, length: many
        self.check_stat_fails()

    def test_replies_that_are_too_long(self):
        self.export.size = 1 << 50
        many = descriptors((1, 0), (1, 1)) * (1 << 23)
        self.export.on_status = lambda context, offset, length: many
        self.check_stat_fails()

    def test_millions_of_extents(self):
        """As many as a legitimate disk may have, in two maps: the tree is correct."""
        count = 10_000_000
        self.export.size = size = count * 512
        self.export.data = lambda offset, length: bytes(length)
        self.export.contexts = {ALLOCATION: [], DIRTY + "b": []}
        many = descriptors((512, 0), (512, 1)) * (1 << 17)

        def status(context, offset, length):
            first = offset // 512 % 2
            return many[8 * first:8 * min(length // 512, 1 << 17)]
        self.export.on_status = status
        mount = self.mount(self.server.uri())
        # A hole without the zero flag is data; in the bitmap every other sector is dirty.
        self.assertEqual(os.stat(mount / "default/disk.raw").st_blocks, size // 512)
        self.assertEqual(os.stat(mount / "default/dirty/b.raw").st_blocks, size // 1024)
        self.assertEqual(mount.json(".fleecefs/status.json")["exports"][0]["extents"], 2 * count)
        self.end(mount)

    def test_extents_past_the_end(self):
        """The last extent of a reply may exceed the request."""
        self.export.on_status = lambda context, offset, length: [((1 << 32) - 1, 0)]
        mount = self.mounted()
        rows = [line.split()[:3] for line in mount.read("default/disk.map").splitlines()]
        self.assertEqual(sum(int(row[1]) for row in rows), SIZE)
        self.assertEqual(self.read(mount, SIZE) == self.disk, True)
        self.end(mount)

    def test_contexts_of_different_detail(self):
        """One context covers little per reply, the other everything: both maps are complete."""
        self.export.on_status = lambda context, offset, length: \
            [(512, offset // 512 % 2)] if context == ALLOCATION else None
        mount = self.mounted()
        self.assertEqual(len(mount.read("default/disk.map").splitlines()), SIZE // 512)
        self.assertEqual(len(mount.read("default/dirty/b.map").splitlines()), 1)
        self.end(mount)

    def test_contexts_that_overlap(self):
        """A reply has the same range of one context twice, with other contexts between."""
        self.export.contexts = {ALLOCATION: [(0, SIZE // 2, 0), (SIZE // 2, SIZE, 3)],
                                DIRTY + "b": [(0, SIZE, 1)]}
        self.disk = self.export.data = self.disk[:SIZE // 2] + bytes(SIZE // 2)
        asked = itertools.count()
        self.export.status_ids = [1, 2, 1, 1, 2]
        self.export.on_status = lambda context, offset, length: \
            [(length, 0)] if context == ALLOCATION and next(asked) % 3 else None
        mount = self.mounted()
        try:
            self.assertEqual(self.read(mount, SIZE) == self.disk, True)
            self.assertEqual(len(mount.read("default/disk.map").splitlines()), 2)
        except OSError as error:
            self.assertEqual(error.errno, errno.EIO)
        self.end(mount)

    def test_contexts_left_out_of_a_reply(self):
        """A gap is treated neither as zeros nor as clean."""
        for ids in ([1], [2], [9], [0], [1, 9], [2, (1 << 32) - 1]):
            with self.subTest(ids):
                self.began = time.monotonic()
                self.export.status_ids = ids
                self.check_stat_fails()

    def test_status_of_a_context_that_was_not_requested(self):
        self.export.listed = [ALLOCATION]
        mount = self.mounted()
        self.assertNotIn("default/dirty/b.raw", mount.files())
        self.end(mount)

    def test_status_that_changes_between_requests(self):
        asked = itertools.count()
        self.export.on_status = lambda context, offset, length: \
            [(length, next(asked) // 2 % 2)]
        mount = self.mounted()
        os.stat(mount / "default/disk.raw")
        self.assert_errno(errno.EIO, self.read, mount, 4096)
        status = mount.json(".fleecefs/status.json")
        self.assertIn("changed", status["exports"][0]["failure"])
        self.end(mount)

    def test_clean_ranges_in_a_million_pieces(self):
        """Each piece needs a separate request for base:allocation."""
        size = 8192 * 400_000
        self.export.size = size
        dirty = descriptors((4096, 0), (4096, 1)) * (1 << 16)

        def status(context, offset, length):
            if context == ALLOCATION:
                if length > 4096:
                    raise OSError(errno.EINVAL, "clean")
                return None
            first = offset // 4096 % 2
            return dirty[8 * first:8 * (length // 4096)]
        self.export.contexts[ALLOCATION] = [(0, size, 0)]
        self.export.on_status = status
        mount = self.mounted("-o", "timeout=2,reconnect=2")
        try:
            self.assertEqual(os.stat(mount / "default/dirty/b.raw").st_size, size)
        except OSError as error:
            self.assertEqual(error.errno, errno.EIO)
        self.end(mount)

    # Exports and contexts

    def test_thousands_of_exports(self):
        self.server.exports = {f"e{i}": self.export for i in range(4000)}
        mount = self.mounted()
        self.assertEqual(len(mount.folders()), 4000)
        self.assertEqual(os.stat(mount / "e3999/disk.raw").st_size, SIZE)
        self.end(mount)

    def test_too_many_exports(self):
        self.server.exports = {f"e{i}": self.export for i in range(50_000)}
        self.assert_refused(self.server.uri(), self.mkdir("mnt"), says=["exports"])
        self.assertLess(time.monotonic() - self.began, SLOW)

    def test_thousands_of_contexts(self):
        """All or none: omitting some would make a bitmap look deleted."""
        self.export.contexts = {f"{DIRTY}b{i}": [(0, SIZE, i % 2)] for i in range(900)}
        mount = self.mounted()
        self.assertEqual(len([f for f in mount.files() if f.endswith(".pbm")]), 900)
        self.assertEqual(os.stat(mount / "default/disk.raw").st_size, SIZE)
        self.end(mount)
        self.export.contexts = {f"{DIRTY}b{i}": [(0, SIZE, i % 2)] for i in range(5000)}
        self.assert_refused(self.server.uri(), self.mkdir("mnt"), says=["contexts"])
        self.assertLess(time.monotonic() - self.began, SLOW)

    def test_total_length_of_names(self):
        """Each name and count is within its limit, but all names together take gigabytes."""
        long = "x" * 4000
        self.server.exports = {f"e{i}": self.export for i in range(1000)}
        self.export.contexts = {f"{i}:{long}": [(0, SIZE, 0)] for i in range(900)}
        said = self.assert_refused(self.server.uri(), self.mkdir("mnt"), says=["meta contexts take"])
        self.assertEqual(said.count("\n"), 1)
        self.assertLess(time.monotonic() - self.began, SLOW)

    def test_total_length_of_names_of_several_sources(self):
        """All sources of a mount share one limit."""
        long = "x" * 4000
        self.export.contexts = {f"{i}:{long}": [(0, SIZE, 0)] for i in range(900)}
        self.server.exports = {f"e{i}": self.export for i in range(10)}
        other = NbdServer(self, self.server.exports)
        self.mounted().unmount()
        self.assert_refused("a=" + self.server.uri(), "b=" + other.uri(), self.mkdir("both"),
                            says=["meta contexts take", "of the sources before it"])
        self.assertLess(time.monotonic() - self.began, 2 * SLOW)

    def test_names_that_are_not_utf8(self):
        every = bytes(range(1, 256)).decode(errors="surrogateescape")
        names = [every, (every * 17)[:4096], "x" * 4096, ".", "..", "../..", "a/b", ".fleecefs",
                 "%2E", "\n", "\x1b]0;title\a", "ä" * 2048, "-", "--checkpoint-action=exec=touch x"]
        for name in names:
            with self.subTest(name=name.encode(errors="surrogateescape")[:40]):
                self.began = time.monotonic()
                self.server.exports = {name: self.export}
                self.export.contexts = {ALLOCATION: [(0, SIZE, 0)]}
                if len(name) < 3900:
                    self.export.contexts[DIRTY + name] = [(0, SIZE, 1)]
                    self.export.contexts["other:" + name] = [(0, SIZE, 1)]
                mount = self.mounted()
                self.assertEqual(len(mount.folders()), 1)
                for path in mount.files():
                    mount.read(path, "rb") if "raw" not in path else None
                    for part in path.split("/"):
                        self.assertNotRegex(part, r"[\x00-\x1f\x7f]|^[.-]")
                        self.assertLessEqual(len(os.fsencode(part)), 255)
                folder = mount.folders()[0]
                with open(mount / f"{folder}/disk.raw", "rb") as f:
                    self.assertEqual(f.read() == self.disk, True)
                mount.json(f"{folder}/info.json")
                self.end(mount)

    def test_a_name_with_a_nul(self):
        """A NUL is invalid in a name."""
        self.server.exports = {"a\0b": self.export}
        done = self.fleecefs(self.server.uri(), self.mkdir("mnt"))
        self.assertEqual(done.returncode, 1)

    def test_names_on_one_line(self):
        """Messages about an export are one line without control characters."""
        self.server.exports = {"a\n\x1b[31mb": self.export}
        self.export.size = 0
        said = self.assert_refused(self.server.uri(), self.mkdir("mnt"))
        self.assertNotRegex(said[:-1], r"[\x00-\x1f\x7f]")

    def test_contexts_named_like_ours(self):
        whole = [(0, SIZE, 1)]
        for contexts in ([DIRTY], [DIRTY + ".."], [DIRTY + "b.raw", DIRTY + "b"], ["maps:maps"],
                         ["qemu:allocation-depth", "qemu:allocation-depth:x"], [":"], [""],
                         ["base:allocation:x"], ["qemu:dirty-bitmap"], [DIRTY + "disk"]):
            with self.subTest(contexts):
                self.began = time.monotonic()
                self.export.contexts = {ALLOCATION: [(0, SIZE, 0)], **{c: whole for c in contexts}}
                mount = self.mounted()
                files = mount.files()
                self.assertEqual(len(files), len(set(files)))
                self.assertEqual(self.read(mount, SIZE) == self.disk, True)
                self.end(mount)

    def test_a_context_that_is_listed_twice(self):
        self.export.listed = [ALLOCATION, ALLOCATION, DIRTY + "b", DIRTY + "b"]
        done = self.fleecefs(self.server.uri(), self.mkdir("mnt"))
        self.assertEqual(done.returncode, 1)

    def test_a_context_that_is_listed_but_not_given(self):
        self.export.listed = [ALLOCATION, DIRTY + "phantom"]
        self.check_stat_fails()

    # Sizes

    def test_sizes(self):
        for size in (1, 511, (1 << 63) - 1, (1 << 63) - 512):
            with self.subTest(size=size):
                self.began = time.monotonic()
                self.export.size, self.export.data = size, lambda offset, length: bytes(length)
                self.export.contexts = {ALLOCATION: [(0, size, 0)], DIRTY + "b": [(0, size, 1)]}
                mount = self.mounted()
                for path in mount.files():
                    os.stat(mount / path)
                # Block status would take forever: disks larger than a petabyte have no maps.
                self.assertEqual("default/dirty/b.raw" in mount.files(), size < 1 << 50)
                self.assertEqual("no_maps" in mount.json("default/info.json"), size > 1 << 50)
                with open(mount / "default/disk.raw", "rb") as f:
                    self.assertEqual(os.pread(f.fileno(), 1, size - 1), b"\0")
                self.end(mount)

    def test_invalid_sizes(self):
        for size in (0, 1 << 63, (1 << 64) - 1):
            with self.subTest(size=size):
                self.export.size = size
                self.assert_refused(self.server.uri(), self.mkdir("mnt"))

    def test_block_sizes(self):
        for blocks in ((1, 1, 1), (1, 1, 1 << 31), (1, 1 << 31, (1 << 32) - 1), (512, 4096, 512),
                       (1 << 31, 1 << 31, 1 << 31), (3, 5, 7), (0, 0, 0), (65536, 65536, 65536),
                       (4096, 1 << 31, 4096)):
            with self.subTest(blocks=blocks):
                self.began = time.monotonic()
                self.export.blocks = blocks
                point = self.mkdir("mnt")
                done = self.fleecefs(self.server.uri(), point)
                if done.returncode == 0:
                    with open(point + "/default/disk.raw", "rb") as f:
                        f.seek(100)
                        self.assertEqual(f.read(1000), self.disk[100:1100])
                        f.seek(0)
                        self.assertEqual(f.read() == self.disk, True)
                    lib.run("fusermount3", "-u", point)
                self.assertLess(time.monotonic() - self.began, SLOW)

    # Replies to reads

    def test_replies_with_wrong_lengths(self):
        """Each causes an error and no data, even if the lengths would add up."""
        def at(offset, data):
            return (1, struct.pack(">Q", offset) + data)

        def hole(offset, length):
            return (2, struct.pack(">QI", offset, length))
        replies = {
            "nothing": lambda o, n: [(0, b"")],
            "too short": lambda o, n: [at(o, self.disk[o:o + n // 2])],
            "too long": lambda o, n: [at(o, self.disk[o:o + n] + b"x")],
            "elsewhere": lambda o, n: [at(o + n, self.disk[o:o + n])],
            "before": lambda o, n: [at(o - n, self.disk[o:o + n])],
            "no offset": lambda o, n: [(1, b"abc")],
            "a hole too long": lambda o, n: [hole(o, n + 1)],
            "a hole of length zero": lambda o, n: [hole(o, 0)],
            "a hole of 4 GiB": lambda o, n: [hole(o, (1 << 32) - 1)],
            "status in place of data": lambda o, n: [(5, struct.pack(">III", 1, n, 0))],
            "an unknown chunk": lambda o, n: [(99, b"?" * 100)],
            "an error without a number": lambda o, n: [(32769, b"")],
            "error 0": lambda o, n: [(32769, struct.pack(">IH", 0, 0))],
            "an error with a long message": lambda o, n:
                [(32769, struct.pack(">IH", 5, 65535) + b"x" * 10)],
            "the first half twice": lambda o, n: [at(o, self.disk[o:o + n // 2])] * 2,
            "all of it twice": lambda o, n: [at(o, self.disk[o:o + n])] * 2,
            "a piece again as a hole": lambda o, n: [at(o, self.disk[o:o + n]), hole(o + 512, 512)],
            "an overlap and a gap": lambda o, n:
                [at(o, self.disk[o:o + n // 2]), at(o + n // 4, self.disk[:n // 4]),
                 at(o + n - n // 4, self.disk[:n // 4])],
            "thousands of pieces": lambda o, n:
                [at(o + i, self.disk[o + i:o + i + 1]) for i in [*range(0, n, 2), *range(1, n, 2)]],
            "an error in the middle": lambda o, n:
                [at(o, self.disk[o:o + n // 2]),
                 (32770, struct.pack(">IHQ", 5, 0, o + n // 2))],
        }
        for what, reply in replies.items():
            with self.subTest(what):
                self.began = time.monotonic()
                self.export.on_read = reply
                mount = self.mount(self.server.uri(), options=["-o", "timeout=1,reconnect=1"])
                self.assert_errno(errno.EIO, self.read, mount, 65536, 65536)
                self.end(mount)

    def test_a_wrong_reply_once(self):
        """The connection is dropped and the request repeated on another one."""
        asked = itertools.count()
        self.export.on_read = lambda offset, length: \
            [(1, struct.pack(">Q", offset) + bytes(length // 2))] * 2 if next(asked) == 0 else None
        mount = self.mounted("-o", "readahead=0")
        self.assertEqual(self.read(mount, 65536) == self.disk[:65536], True)
        self.assertEqual(mount.json(".fleecefs/status.json")["exports"][0]["reconnects"], 1)
        self.end(mount)

    def test_a_reply_in_pieces(self):
        """Valid replies that no real server sends: holes in the middle, pieces in reverse order."""
        def reply(offset, length):
            half, quarter = length // 2, length // 4
            return [(1, struct.pack(">Q", offset + half) + self.disk[offset + half:offset + length]),
                    (2, struct.pack(">QI", offset + quarter, quarter)),
                    (1, struct.pack(">Q", offset) + self.disk[offset:offset + quarter]),
                    (0, b"")]
        self.export.on_read = reply
        mount = self.mounted("-o", "readahead=0")
        found = self.read(mount, 65536)
        self.assertEqual(found[:16384] + found[32768:] == self.disk[:16384] + self.disk[32768:65536],
                         True)
        self.assertEqual(found[16384:32768], bytes(16384))
        self.end(mount)

    # Maps and data that change while the daemon is disconnected

    def mount_and_change(self, allocation, disk):
        """Mounts, reads the first page, then restarts the server with this map and disk."""
        mount = self.mounted()
        os.stat(mount / "default/disk.raw")
        self.read(mount, 4096)
        self.server.stop()
        self.export.contexts[ALLOCATION], self.export.data = allocation, disk
        self.server.start()
        return mount

    def test_allocation_that_changes(self):
        """Whether a preallocated range is reported as a hole may depend on the host's page cache."""
        half = SIZE // 2
        self.disk = self.export.data = self.disk[:half] + bytes(half)
        maps = {"a hole becomes data": ([(0, half, 0), (half, SIZE, 3)], [(0, SIZE, 0)]),
                "data becomes a hole": ([(0, SIZE, 0)], [(0, half, 0), (half, SIZE, 3)])}
        for what, (before, after) in maps.items():
            with self.subTest(what):
                self.export.contexts[ALLOCATION] = before
                mount = self.mount_and_change(after, self.disk)
                self.assertEqual(self.read(mount, SIZE) == self.disk, True)
                self.assertNotIn("failure", mount.json(".fleecefs/status.json")["exports"][0])
                self.end(mount)

    def test_bytes_where_a_hole_was(self):
        """Zeros of that range may have been returned already."""
        half = SIZE // 2
        self.export.data = self.disk[:half] + bytes(half)
        self.export.contexts[ALLOCATION] = [(0, half, 0), (half, SIZE, 3)]
        mount = self.mount_and_change([(0, SIZE, 0)], self.disk)
        self.assert_errno(errno.EIO, self.read, mount, 4096, 65536)
        self.assertIn("zero", mount.json(".fleecefs/status.json")["exports"][0]["failure"])
        self.end(mount)

    def test_allocation_that_disappears(self):
        """Listed but not negotiated: everything is data."""
        del self.export.contexts[ALLOCATION]
        self.export.listed = [ALLOCATION, DIRTY + "b"]
        mount = self.mounted()
        self.assertEqual(len(mount.read("default/disk.map").splitlines()), 1)
        self.assertEqual(self.read(mount, SIZE) == self.disk, True)
        self.end(mount)

    # Servers that stop in the middle

    def test_a_server_that_does_not_hang_up(self):
        """The daemon does not wait for it to close the connection, with or without NBD_OPT_INFO."""
        stop = threading.Event()
        self.defer(stop.set)
        self.server.on_goodbye = stop.wait
        for refused in ((), (6,)):
            with self.subTest(refused):
                self.began = time.monotonic()
                self.server.refused = refused
                mount = self.mounted()
                self.assertEqual(self.read(mount, SIZE) == self.disk, True)
                self.end(mount)

    def test_timeout_of_more_than_an_hour(self):
        """Timeouts whose microseconds exceed 32 bits: 4295 s would wrap to 33 ms, four times 1074 s to
        one second."""
        self.server.on_option = lambda option: threading.Event().wait(0.3)
        for timeout in (1074, 4295, 1_000_000_000):
            with self.subTest(timeout):
                mount = self.mount(self.server.uri(),
                                   options=["-o", f"timeout={timeout},reconnect=86400"])
                self.assertEqual(self.read(mount, SIZE) == self.disk, True)
                mount.unmount()

    def test_a_handshake_that_stops(self):
        release = threading.Event()
        self.defer(release.set)
        for what, stop in {"silent": lambda option: release.wait(), "gone": self.hang_up}.items():
            for option in (3, 6, 7, 8, 9):
                with self.subTest(what, option=option):
                    began = time.monotonic()
                    self.server.on_option = lambda asked, option=option, stop=stop: \
                        stop(asked) if asked == option else None
                    point = self.mkdir("mnt")
                    done = self.fleecefs("-o", "timeout=1,reconnect=1", self.server.uri(), point)
                    if done.returncode == 0:
                        with self.assertRaises(OSError) if option == 7 else \
                                open(point + "/default/disk.raw", "rb"):
                            os.stat(point + "/default/disk.raw")
                        lib.run("fusermount3", "-u", point)
                    self.assertLess(time.monotonic() - began, SLOW)

    def test_a_handshake_of_a_thousand_replies(self):
        """Each reply is in time, but all together are not."""
        self.server.exports = {f"e{i}": self.export for i in range(1000)}
        self.server.on_option = lambda option: threading.Event().wait(0.7)
        self.assert_refused("-o", "timeout=1", self.server.uri(), self.mkdir("mnt"),
                            says=["too slow"])
        self.assertLess(time.monotonic() - self.began, SLOW)

    @staticmethod
    def hang_up(option):
        raise HangUp

    def test_a_greeting_that_never_comes(self):
        """Listeners that accept and send nothing, garbage, or only part of the greeting."""
        for script in ("sleep 60", "yes | head -c 1000000", "printf NBDMAGIC; sleep 60"):
            with self.subTest(script):
                began = time.monotonic()
                self.assert_refused("-o", "timeout=1", "[", "python3", "-c", f"""
import socket, subprocess
listener = socket.socket(fileno=3)
connection = listener.accept()[0]
subprocess.run(['sh', '-c', {script!r}], stdout=connection.fileno())
""", "]", self.mkdir("mnt"))
                self.assertLess(time.monotonic() - began, SLOW)

    def test_a_reply_that_drips(self):
        """An occasional byte does not count as a reply."""
        stop = threading.Event()
        self.defer(stop.set)

        def drip(offset, length):
            # Iterating over the chunks sends the bytes; it never ends.
            return Dripping(stop, offset, self.disk)
        self.export.on_read = drip
        mount = self.mount(self.server.uri(), options=["-o", "timeout=1,reconnect=1"])
        self.assert_errno(errno.EIO, self.read, mount, 65536)
        stop.set()
        self.end(mount)


class Dripping(list):
    """Endless chunks of one byte, ten per second, until STOP is set."""

    def __init__(self, stop, offset, disk):
        super().__init__()
        self.stop, self.offset, self.disk = stop, offset, disk

    def __len__(self):
        return 1 << 30

    def __iter__(self):
        at = self.offset
        while not self.stop.wait(0.1):
            yield 1, struct.pack(">Q", at) + self.disk[at:at + 1]
            at += 1


if __name__ == "__main__":
    lib.main()
