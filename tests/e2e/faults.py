#!/usr/bin/env python3
"""Servers that lie, stall, fail and die: reported errors, never wrong bytes, never a hang."""
import concurrent.futures
import errno
import itertools
import os
import threading
import time

import lib
from nbdserver import DIRTY, Export, HangUp, NbdServer

SIZE = 4 * lib.MIB


class Faults(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.disk = self.rng.randbytes(SIZE)
        self.contexts = {"base:allocation": [(0, SIZE, 0)],
                         DIRTY + "b": [(0, SIZE // 2, 1), (SIZE // 2, SIZE, 0)]}
        self.export = Export(SIZE, self.disk, self.contexts)
        self.server = NbdServer(self, {"": self.export})

    def read(self, mount, length=4096, offset=0):
        return lib.read_direct(mount / "default/disk.raw", length, offset)

    # Block status

    def test_extents_that_make_no_sense(self):
        lies = {
            "nothing": [],
            "no progress": [(0, 0)],
        }
        for what, said in lies.items():
            with self.subTest(what):
                self.export.on_status = lambda context, offset, length, said=said: said
                self.assert_no_map()

    def test_status_that_fails(self):
        def fail(context, offset, length):
            raise OSError(errno.EIO, "no status")
        self.export.on_status = fail
        self.assert_no_map()

    def assert_no_map(self):
        """A disk without its maps is inaccessible: nothing is guessed."""
        with self.mount(self.server.uri()) as mount:
            for name in ("disk.raw", "disk.map", "dirty/b.raw", "dirty/b.map"):
                self.assert_errno(errno.EIO, os.stat, mount / ("default/" + name))
                self.assert_errno(errno.EIO, os.open, mount / ("default/" + name), os.O_RDONLY)

    def test_extents_past_the_end_are_cut(self):
        """A reply may cover more than requested, but not beyond the disk's end."""
        self.export.on_status = lambda context, offset, length: [(4096, 0), (1 << 31, 3)]
        with self.mount(self.server.uri()) as mount:
            rows = [line.split() for line in mount.read("default/disk.map").splitlines()]
            self.assertEqual(sum(int(row[1]) for row in rows), SIZE)
            self.assertEqual(os.stat(mount / "default/disk.raw").st_size, SIZE)

    # Reads

    def test_a_read_that_fails(self):
        def fail(offset, length):
            if offset <= lib.MIB < offset + length:
                raise OSError(errno.EIO, "bad sector")
        self.export.on_read = fail
        with self.mount(self.server.uri()) as mount:
            self.assertEqual(self.read(mount), self.disk[:4096])
            self.assert_errno(errno.EIO, self.read, mount, 4096, lib.MIB)
            # Only the reads concerned fail, and nothing is cached.
            self.assertEqual(self.read(mount, 4096, 3 * lib.MIB),
                             self.disk[3 * lib.MIB:3 * lib.MIB + 4096])
            self.export.on_read = lambda offset, length: None
            self.assertEqual(self.read(mount, 4096, lib.MIB), self.disk[lib.MIB:lib.MIB + 4096])

    def test_a_connection_that_drops(self):
        dropped = threading.Event()

        def drop_once(offset, length):
            if not dropped.is_set():
                dropped.set()
                raise HangUp
        self.export.on_read = drop_once
        with self.mount(self.server.uri()) as mount:
            self.assertEqual(mount.read("default/disk.raw", "rb") == self.disk, True)
            self.assertTrue(dropped.is_set())

    # Server death

    def test_a_server_that_comes_back(self):
        with self.mount(self.server.uri(), options=["-o", "reconnect=60"]) as mount:
            self.assertEqual(self.read(mount), self.disk[:4096])
            self.server.stop()
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                waiting = pool.submit(self.read, mount, 4096, 8192)
                self.server.start()
                self.assertEqual(waiting.result(lib.PATIENCE), self.disk[8192:12288])
            self.assertEqual(mount.read("default/disk.raw", "rb") == self.disk, True)

    def test_a_server_that_stays_away(self):
        with self.mount(self.server.uri(), options=["-o", "reconnect=1"]) as mount:
            self.read(mount)
            self.server.stop()
            self.assert_errno(errno.EIO, self.read, mount, 4096, lib.MIB)
            # Permanent, even if the server returns: the disk may have changed meanwhile.
            self.server.start()
            self.assert_errno(errno.EIO, self.read, mount, 4096, lib.MIB)
            # The tree stays: an empty one would make rsync --delete delete the backup.
            self.assertIn("default/disk.raw", mount.files())
            self.assertEqual(mount.read("default/dirty/b.map").split()[:2],
                             ["0", str(SIZE // 2)])
            (told,) = mount.json(".fleecefs/status.json")["exports"]
            self.assertEqual(told["state"], "failed")
            self.assertIn("refused", told["failure"])

    def test_no_reconnect(self):
        """Never reconnects, even if the server is back immediately."""
        connected = []
        with self.mount(self.server.uri(), options=["-o", "reconnect=0"]) as mount:
            self.read(mount)
            self.server.on_option = connected.append
            self.server.stop()
            self.server.start()
            for _ in range(2):
                self.assert_errno(errno.EIO, self.read, mount, 4096, lib.MIB)
            self.assertEqual(connected, [])
            self.assertEqual(mount.json(".fleecefs/status.json")["exports"][0]["state"], "failed")

    def test_no_reconnect_while_a_connection_is_left(self):
        """A dropped connection is not replaced; its requests go to the others."""
        connections, both, asked = set(), threading.Event(), itertools.count()

        def drop_one(offset, length):
            connections.add(threading.get_ident())
            if len(connections) == 2:
                both.set()
            both.wait(lib.PATIENCE)
            if next(asked) == 0:
                raise HangUp
        self.export.on_read = drop_one
        with self.mount(self.server.uri(),
                        options=["-C", "2", "-o", "reconnect=0,readahead=0"]) as mount, \
                concurrent.futures.ThreadPoolExecutor(8) as pool:
            def status():
                return mount.json(".fleecefs/status.json")["exports"][0]

            # Two at once open a second connection, which takes its share of the others: they are
            # large enough that the first does not take them all.
            places, length = range(0, SIZE, SIZE // 8), 64 * lib.KIB
            reads = [pool.submit(self.read, mount, length, at) for at in places[:2]]
            while status()["connections"] < 2:
                pass
            reads += [pool.submit(self.read, mount, length, at) for at in places[2:]]
            for at, found in zip(places, reads):
                self.assertEqual(found.result(lib.PATIENCE), self.disk[at:at + length])
            self.assertEqual((status()["connections"], status()["reconnects"]), (1, 0))

    def test_a_server_that_drops_every_read(self):
        """Retries are limited, even if each reconnect succeeds."""
        def drop(offset, length):
            raise HangUp
        self.export.on_read = drop
        with self.mount(self.server.uri(), options=["-o", "timeout=1,reconnect=1"]) as mount:
            self.assert_errno(errno.EIO, self.read, mount)

    def test_a_server_that_comes_back_changed(self):
        changes = {
            "smaller": lambda: setattr(self.export, "size", SIZE // 2),
            "larger": lambda: setattr(self.export, "size", SIZE * 2),
            "without the bitmap": lambda: setattr(
                self.export, "contexts", {"base:allocation": [(0, SIZE, 0)]}),
        }
        for what, change in changes.items():
            with self.subTest(what):
                self.export.size, self.export.contexts = SIZE, self.contexts
                with self.mount(self.server.uri(), options=["-o", "reconnect=5"]) as mount:
                    self.read(mount)
                    self.server.stop()
                    change()
                    self.server.start()
                    self.assert_errno(errno.EIO, self.read, mount, 4096, lib.MIB)
                    self.assertEqual(os.stat(mount / "default/disk.raw").st_size, SIZE)

    def test_a_server_that_is_silent(self):
        release = threading.Event()
        self.defer(release.set)
        self.export.on_read = lambda offset, length: release.wait()
        with self.mount(self.server.uri(), options=["-o", "timeout=1,reconnect=1"]) as mount:
            began = time.monotonic()
            self.assert_errno(errno.EIO, self.read, mount)
            self.assertLess(time.monotonic() - began, 20)

    def test_unmount_while_reads_wait(self):
        release, asked = threading.Event(), threading.Event()
        self.defer(release.set)

        def stall(offset, length):
            asked.set()
            release.wait()
        self.export.on_read = stall
        mount = self.mount(self.server.uri())
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self.read, mount)
            self.assertTrue(asked.wait(lib.PATIENCE))
            lib.run("fusermount3", "-u", "-z", mount.point)
            lib.run("kill", mount.pid)
            with self.assertRaises(OSError):
                waiting.result(lib.PATIENCE)
        mount.check_gone()

    def test_a_killed_server_in_brackets(self):
        mount = self.mount("[", "nbdkit", "memory", "1M", "]", options=["-o", "reconnect=1"])
        self.read(mount)
        server = next(pid for pid in mount.processes if pid != mount.pid)
        os.kill(server, 9)
        lib.wait_gone(mount.processes[server], "the server")
        fd = os.open(mount / "default/disk.raw", os.O_RDONLY)
        self.assertEqual(os.fstat(fd).st_size, lib.MIB)
        os.close(fd)
        mount.unmount()


if __name__ == "__main__":
    lib.main()
