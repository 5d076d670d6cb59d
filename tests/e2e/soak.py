#!/usr/bin/env python3
"""Many concurrent readers of random disks, with random options, while connections drop and servers die.

Environment: ROUNDS is the number of disks, KILLS the number of times that a server is killed (by
default five times for each disk).
"""
import concurrent.futures
import contextlib
import itertools
import os
import random
import signal
import socket
import subprocess
import threading

import disks
import lib
from nbdserver import DIRTY, Export, HangUp, NbdServer

ROUNDS = int(os.environ.get("ROUNDS", "2"))
KILLS = int(os.environ.get("KILLS", 5 * ROUNDS))
READERS, READS = 6, 150


class Soak(lib.TestCase):
    def random_export(self, size):
        """Returns a disk of random extents, and the contents of its two raw files."""
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

    def read_at_random(self, mount, contents, seed, reads=range(READS), flags=(0, os.O_DIRECT)):
        """Returns a description of a wrong read, or None."""
        rng = random.Random(seed)
        name, expected = rng.choice(sorted(contents.items()))
        fd = os.open(mount / ("default/" + name), os.O_RDONLY | rng.choice(flags))
        try:
            return self.read_file(fd, name, expected, rng, reads)
        except OSError as error:
            return f"{name}: {error}: {mount.read('.fleecefs/status.json')}"
        finally:
            os.close(fd)

    @staticmethod
    def read_file(fd, name, expected, rng, reads):
        at = 0
        for _ in reads:
            length = rng.choice([512, 4096, 131072, rng.randint(1, 1 << 20)])
            # Most reads are sequential.
            at = (at + length) % len(expected) if rng.random() < 0.7 else \
                rng.randrange(len(expected))
            found = os.pread(fd, length, at)
            wanted = expected[at:at + length]
            if found != wanted:
                # A read of several requests returns the data before the first failed one.
                how = "too few" if found and wanted.startswith(found) else "wrong"
                return f"{name}: {how} bytes at {at}, {length} long"
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

    def killed_server(self):
        """Returns a server to kill, and the contents of its disk's raw files."""
        image = disks.create(os.path.join(self.dir, "vm.qcow2"), bitmaps=["b"])
        disks.scribble(image, self.rng, 60)
        server = KilledServer(self, image)
        disk = disks.raw_bytes(server.uri, self.path("raw"))
        dirty = disks.nbd_map(server.uri, DIRTY + "b")
        return server, {"disk.raw": disk, "dirty/b.raw": disks.masked(disk, dirty)}

    def test_kills(self):
        """qemu-nbd is killed and restarted under readers, which only see a delay."""
        server, contents = self.killed_server()
        progress, stop = threading.Semaphore(0), threading.Event()

        def reads():
            for _ in itertools.takewhile(lambda _: not stop.is_set(), itertools.count()):
                yield
                progress.release()

        def used(mount):
            status = mount.json(".fleecefs/status.json")
            with open(f"/proc/{mount.pid}/statm") as f:
                resident = int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")
            return status["file_descriptors"], status["threads"], resident

        options = ["-C", "4", "-o", "cache=8M,reconnect=60,timeout=30"]
        with self.mount(server.uri, options=options) as mount:
            with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
                self.defer(stop.set)
                readers = [pool.submit(self.read_at_random, mount, contents, self.rng.random(),
                                       reads(), [os.O_DIRECT]) for _ in range(READERS)]
                for kill in range(KILLS):
                    # Some reads complete before each kill, others are in flight.
                    for _ in range(self.rng.randint(1, 40)):
                        self.assertTrue(progress.acquire(timeout=lib.PATIENCE), "a reader hangs")
                    if kill == min(4, KILLS - 1):
                        before = used(mount)
                    server.restart()
                    while progress.acquire(blocking=False):
                        pass
                    self.assertEqual([r for r in readers if r.done()], [])
                stop.set()
                self.assertEqual({r.result(lib.PATIENCE) for r in readers}, {None})
            after = used(mount)
            disk_status = mount.json(".fleecefs/status.json")["exports"][0]
            print(f"{KILLS} kills, {disk_status['reconnects']} reconnects; descriptors, threads, "
                  f"bytes: {before}, then {after}", flush=True)
            self.assertEqual(disk_status["state"], "ok")
            self.assertGreater(disk_status["reconnects"], 0)
            # The number varies with that of open connections.
            self.assertLessEqual(after[0], before[0] + 10)
            self.assertLessEqual(after[1], before[1] + 10)
            if not lib.SANITIZED:
                self.assertLess(after[2], before[2] + 32 * lib.MIB)

    def test_unmounts(self):
        """Mounts end in every way under readers, also while the server is dead, and are mounted again."""
        ends = [lambda mount: lib.run("fusermount3", "-u", "-z", mount.point),
                lambda mount: os.kill(mount.pid, signal.SIGTERM),
                lambda mount: os.kill(mount.pid, signal.SIGINT)]
        server, contents = self.killed_server()
        for _ in range(KILLS):
            over, progress = threading.Event(), threading.Semaphore(0)

            def reads(over=over, progress=progress):
                while not over.is_set():
                    yield
                    progress.release()

            def read(mount, seed, over=over, reads=reads):
                try:
                    return self.read_at_random(mount, contents, seed, reads())
                except OSError as error:
                    return None if over.is_set() else str(error)

            mount = self.mount(server.uri, options=["-C", "4", "-o", "reconnect=60,timeout=30"])
            with concurrent.futures.ThreadPoolExecutor(READERS) as pool:
                self.defer(over.set)
                readers = [pool.submit(read, mount, self.rng.random()) for _ in range(READERS)]
                for _ in range(self.rng.randint(READERS, 100)):
                    self.assertTrue(progress.acquire(timeout=lib.PATIENCE), "a reader hangs")
                killed = self.rng.random() < 0.5
                if killed:
                    server.kill()
                over.set()
                self.rng.choice(ends)(mount)
                if killed and self.rng.random() < 0.5:
                    server.restart()
                # After a lazy unmount, the daemon runs on while files are open, and waits for the server.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(mount.pid, signal.SIGTERM)
                wrong = {r.result(lib.PATIENCE) for r in readers}
                # Reads in flight fail with the mount; none returns wrong data.
                self.assertEqual([w for w in wrong if w and "wrong" in w], [])
            mount.check_gone()
            if server.process.poll() is not None:
                server.restart()
            server.wait()


class KilledServer:
    """qemu-nbd on a Unix socket whose file outlives it."""

    def __init__(self, test, image):
        self.path = test.path("nbd.sock")
        self.argv = ["qemu-nbd", "--persistent", "--shared=0", "--read-only", "--format=qcow2",
                     "--bitmap=b", "--socket", self.path, image]
        self.uri = "nbd+unix:///?socket=" + self.path
        self._start()
        test.defer(self.kill)
        self.wait()

    def _start(self):
        self.process = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL,
                                        preexec_fn=lib.die_with_us)

    def wait(self):
        """Waits until it responds, for tools that do not retry."""
        while True:
            with socket.socket(socket.AF_UNIX) as client:
                try:
                    client.connect(self.path)
                    return
                except (FileNotFoundError, ConnectionRefusedError):
                    if self.process.poll() is not None:
                        raise

    def kill(self):
        self.process.kill()
        self.process.wait(lib.PATIENCE)

    def restart(self):
        self.kill()
        # It may have been killed before it listened.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        self._start()


if __name__ == "__main__":
    lib.main()
