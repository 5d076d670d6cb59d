#!/usr/bin/env python3
"""Real servers that die, stall or return with another disk, and requests that wait meanwhile."""
import concurrent.futures
import errno
import os
import signal
import subprocess
import threading
import time
import unittest

import disks
import lib
from nbdserver import DIRTY, Export, NbdServer
from soak import KilledServer

SIZE = 4 * lib.MIB
# Limit for what must not wait for a server; the timeout and reconnect= are longer.
AT_ONCE = 10
PATIENT = ["-o", "timeout=300,reconnect=300"]


class Stalled(Export):
    """An export whose reads, or whose block status, wait until `release` is set."""

    def __init__(self, test, reads=True):
        super().__init__(SIZE, bytes(SIZE), {"base:allocation": [(0, SIZE, 0)]})
        self.release, self.asked = threading.Event(), threading.Event()
        test.defer(self.release.set)
        if reads:
            self.on_read = self.stall
        else:
            self.on_status = self.stall

    def stall(self, *_):
        self.asked.set()
        self.release.wait()


class Outage(lib.TestCase):
    def image(self, seed, name="vm.qcow2"):
        """Creates a fully allocated disk: all have the same map, but contents differ by SEED."""
        path = os.path.join(self.dir, name)
        disks.create(path, SIZE, ["b"])
        disks.qemu_io(path, [f"write -q -P {seed} 0 {SIZE}"])
        return path

    # A different disk at the same address

    def assert_failed(self, mount, offset=0):
        for _ in range(2):
            self.assert_errno(errno.EIO, lib.read_direct, mount / "default/disk.raw", 4096, offset)
        export = mount.json(".fleecefs/status.json")["exports"][0]
        self.assertEqual(export["state"], "failed")
        self.assertIn("not the same", export["failure"])

    def test_another_image_with_the_same_map(self):
        server = KilledServer(self, self.image(1))
        with self.mount(server.uri) as mount:
            self.assertEqual(lib.read_direct(mount / "default/disk.raw"), b"\1" * 4096)
            server.argv[-1] = self.image(2, "other.qcow2")
            server.restart()
            self.assert_failed(mount, lib.MIB)
            # Even after the original is back: the disk may have changed meanwhile.
            server.argv[-1] = os.path.join(self.dir, "vm.qcow2")
            server.restart()
            self.assert_failed(mount)

    def test_another_image_before_the_first_read(self):
        """No connection was open when the image was exchanged."""
        server = KilledServer(self, self.image(1))
        with self.mount(server.uri) as mount:
            self.assertEqual(os.stat(mount / "default/disk.raw").st_blocks, SIZE // 512)
            server.argv[-1] = disks.create(os.path.join(self.dir, "other.qcow2"), SIZE, ["b"])
            server.restart()
            self.assert_failed(mount)

    def test_another_image_before_the_first_look(self):
        server = KilledServer(self, self.image(1))
        with self.mount(server.uri) as mount:
            server.argv[-1] = disks.create(os.path.join(self.dir, "other.qcow2"), 2 * SIZE, ["b"])
            server.restart()
            self.assert_errno(errno.EIO, os.stat, mount / "default/disk.raw")
            self.assertIn("size", mount.json(".fleecefs/status.json")["exports"][0]["failure"])

    def test_maps_wait_for_the_server(self):
        """A lookup waits as a read does."""
        server = KilledServer(self, self.image(1))
        with self.mount(server.uri) as mount, concurrent.futures.ThreadPoolExecutor(1) as pool:
            server.kill()
            waiting = pool.submit(os.stat, mount / "default/disk.raw")
            server.restart()
            self.assertEqual(waiting.result(lib.PATIENCE).st_size, SIZE)

    # A stopped server

    def test_a_stopped_server(self):
        server = KilledServer(self, self.image(1))
        with self.mount(server.uri, options=["-o", "timeout=1,reconnect=60"]) as mount, \
                concurrent.futures.ThreadPoolExecutor(1) as pool:
            self.assertEqual(lib.read_direct(mount / "default/disk.raw"), b"\1" * 4096)
            server.process.send_signal(signal.SIGSTOP)
            waiting = pool.submit(lib.read_direct, mount / "default/disk.raw", 4096, lib.MIB)
            # Longer than the timeout: attempts to reconnect also get no reply.
            with self.assertRaises(concurrent.futures.TimeoutError):
                waiting.result(3)
            server.process.send_signal(signal.SIGCONT)
            self.assertEqual(waiting.result(lib.PATIENCE), b"\1" * 4096)

    def test_a_server_that_stays_stopped(self):
        server = KilledServer(self, self.image(1))
        with self.mount(server.uri, options=["-o", "timeout=1,reconnect=1"]) as mount:
            self.assertEqual(lib.read_direct(mount / "default/disk.raw"), b"\1" * 4096)
            server.process.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            self.assert_errno(errno.EIO, lib.read_direct, mount / "default/disk.raw", 4096, lib.MIB)
            self.assertLess(time.monotonic() - began, AT_ONCE)

    # A name lookup that never ends

    def stalled(self, *options):
        """Returns a mount whose server was killed and whose name lookup blocks."""
        module = os.environ.get("STALL_MODULE")
        if module is None or lib.SANITIZED:
            self.skipTest("no module to preload, or a sanitizer must be loaded first")
        stall = self.path("stall")
        server = self.nbdkit("pattern", "1M", tcp=True)
        mount = self.mount(server.uri.replace("127.0.0.1", "localhost"), options=options,
                           env={"LD_PRELOAD": module, "STALL": stall})
        self.assertEqual(len(lib.read_direct(mount / "default/disk.raw")), 4096)
        with open(stall, "w"):
            pass
        server.kill()
        return mount

    def test_a_name_lookup_that_never_ends(self):
        mount = self.stalled("-o", "timeout=1,reconnect=1")
        began = time.monotonic()
        self.assert_errno(errno.EIO, lib.read_direct, mount / "default/disk.raw", 4096, 65536)
        self.assertLess(time.monotonic() - began, AT_ONCE)
        self.assertEqual(mount.json(".fleecefs/status.json")["exports"][0]["state"], "failed")
        mount.unmount()

    def test_unmount_during_a_look_up(self):
        mount = self.stalled(*PATIENT)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(lib.read_direct, mount / "default/disk.raw", 4096, 65536)
            while not mount.json(".fleecefs/status.json")["exports"][0]["connecting"]:
                pass
            began = time.monotonic()
            os.kill(mount.pid, signal.SIGTERM)
            with self.assertRaises(OSError):
                waiting.result(lib.PATIENCE)
            mount.check_gone()
            self.assertLess(time.monotonic() - began, AT_ONCE)

    # nbdkit's filters

    def test_errors_now_and_then(self):
        """Errors are reported; successful reads are correct."""
        lib.require("nbdkit")
        image = os.path.join(self.dir, "disk.raw")
        with open(image, "wb") as f:
            f.write(self.rng.randbytes(SIZE))
        with open(image, "rb") as f:
            disk = f.read()
        server = self.nbdkit("--filter=error", "file", image, "error-pread=EIO",
                             "error-pread-rate=20%")
        failed = 0
        with self.mount(server.uri, options=["-o", "readahead=0"]) as mount:
            for at in range(0, SIZE, 65536):
                try:
                    self.assertEqual(lib.read_direct(mount / "default/disk.raw", 65536, at) ==
                                     disk[at:at + 65536], True)
                except OSError as error:
                    self.assertEqual(error.errno, errno.EIO)
                    failed += 1
            self.assertGreater(failed, 0)
            self.assertLess(failed, SIZE // 65536)

    def test_block_sizes_that_a_server_insists_on(self):
        lib.require("nbdkit")
        image = os.path.join(self.dir, "disk.raw")
        with open(image, "wb") as f:
            f.write(self.rng.randbytes(SIZE))
        server = self.nbdkit("--filter=blocksize-policy", "file", image, "blocksize-minimum=4096",
                             "blocksize-preferred=64K", "blocksize-maximum=256K",
                             "blocksize-error-policy=error")
        with open(image, "rb") as f, self.mount(server.uri) as mount:
            disk = f.read()
            self.assertEqual(mount.read("default/disk.raw", "rb") == disk, True)
            self.assertEqual(lib.read_direct(mount / "default/disk.raw", 1024, 512), disk[512:1536])

    def test_a_slow_server(self):
        lib.require("nbdkit")
        server = self.nbdkit("--filter=delay", "pattern", "1M", "rdelay=50ms")
        with self.mount(server.uri, options=["-o", "timeout=5"]) as mount:
            self.assertEqual(len(mount.read("default/disk.raw", "rb")), lib.MIB)

    def test_a_server_that_exits_by_itself(self):
        lib.require("nbdkit")
        trigger = os.path.join(self.dir, "exit")
        server = self.nbdkit("--filter=exitwhen", "pattern", "1M",
                             f"exit-when-file-created={trigger}", "exit-when-poll=1")
        with self.mount(server.uri, options=["-o", "reconnect=1"]) as mount:
            self.assertEqual(len(lib.read_direct(mount / "default/disk.raw")), 4096)
            with open(trigger, "w"):
                pass
            # nbdkit exits after its last client.
            server.process.terminate()
            server.process.wait(lib.PATIENCE)
            self.assert_errno(errno.EIO, lib.read_direct, mount / "default/disk.raw", 4096, 65536)

    # Waiting requests

    def test_readers_that_are_interrupted(self):
        for reads in (True, False):
            for signum in (signal.SIGINT, signal.SIGKILL):
                with self.subTest(reads=reads, signal=signum):
                    export = Stalled(self, reads)
                    server = NbdServer(self, {"": export})
                    with self.mount(server.uri(), options=PATIENT) as mount:
                        reader = subprocess.Popen(["head", "-c1", mount / "default/disk.raw"],
                                                  stderr=subprocess.DEVNULL)
                        self.assertTrue(export.asked.wait(lib.PATIENCE))
                        began = time.monotonic()
                        reader.send_signal(signum)
                        reader.wait(lib.PATIENCE)
                        self.assertLess(time.monotonic() - began, AT_ONCE)

    def test_unmount_while_everything_stalls(self):
        ends = {
            "fusermount3 -uz": lambda mount: lib.run("fusermount3", "-u", "-z", mount.point),
            "SIGTERM": lambda mount: os.kill(mount.pid, signal.SIGTERM),
            "SIGINT": lambda mount: os.kill(mount.pid, signal.SIGINT),
        }
        for reads in (True, False):
            for name, end in ends.items():
                with self.subTest(reads=reads, end=name), \
                        concurrent.futures.ThreadPoolExecutor(1) as pool:
                    export = Stalled(self, reads)
                    server = NbdServer(self, {"": export})
                    mount = self.mount(server.uri(), options=PATIENT)
                    waiting = pool.submit(lib.read_direct, mount / "default/disk.raw")
                    self.assertTrue(export.asked.wait(lib.PATIENCE))
                    began = time.monotonic()
                    end(mount)
                    self.assertFalse(lib.is_mounted(mount.point) and name != "SIGTERM" and
                                     name != "SIGINT")
                    if name == "fusermount3 -uz":
                        # The reader keeps it busy until it is released.
                        os.kill(mount.pid, signal.SIGTERM)
                    with self.assertRaises(OSError):
                        waiting.result(lib.PATIENCE)
                    mount.check_gone()
                    self.assertLess(time.monotonic() - began, AT_ONCE)

    def test_an_end_before_the_mount_is_ready(self):
        """Also if only the first process is signalled: the background process must not mount then."""
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
            with self.subTest(signal=signum):
                server = NbdServer(self, {"": Stalled(self)})
                asked, release = threading.Event(), threading.Event()
                self.defer(release.set)

                def stall(_, asked=asked, release=release):
                    asked.set()
                    release.wait()
                server.on_option = stall
                point = self.mkdir("mnt")
                process = subprocess.Popen([*lib.FLEECEFS, *PATIENT, server.uri(), point],
                                           stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                self.assertTrue(asked.wait(lib.PATIENCE))
                child = lib.children(process.pid)
                self.assertEqual(len(child), 1)
                pidfd = os.pidfd_open(child[0])
                self.defer(os.close, pidfd)
                process.send_signal(signum)
                process.wait(lib.PATIENCE)
                lib.wait_gone(pidfd, "the process in the background", AT_ONCE)
                self.assertFalse(lib.is_mounted(point))

    def test_one_sick_export_among_others(self):
        """Ten stalled exports, in reads and in maps, do not slow down a working one."""
        exports = {f"sick{i}": Stalled(self, i % 2 == 0) for i in range(10)}
        exports["well"] = Export(SIZE, bytes(SIZE), {"base:allocation": [(0, SIZE, 0)],
                                                     DIRTY + "b": [(0, SIZE, 1)]})
        server = NbdServer(self, exports)
        mount = self.mount(server.uri(), options=PATIENT)
        with concurrent.futures.ThreadPoolExecutor(10) as pool:
            waiting = [pool.submit(lib.read_direct, mount / f"sick{i}/disk.raw") for i in range(10)]
            for i in range(10):
                self.assertTrue(exports[f"sick{i}"].asked.wait(lib.PATIENCE))
            began = time.monotonic()
            self.assertEqual(mount.read("well/dirty/b.raw", "rb") == bytes(SIZE), True)
            self.assertLess(time.monotonic() - began, AT_ONCE)
            os.kill(mount.pid, signal.SIGTERM)
            for read_ in waiting:
                with self.assertRaises(OSError):
                    read_.result(lib.PATIENCE)
        mount.check_gone()

    # Resources

    @unittest.skipIf(lib.SANITIZED, "sanitizers use unlimited memory")
    def test_a_reply_without_memory_for_it(self):
        """One request fails; the daemon and other requests continue."""
        server = KilledServer(self, self.image(1))
        with self.mount(server.uri, options=["-o", "readahead=0"]) as mount:
            self.assertEqual(lib.read_direct(mount / "default/disk.raw"), b"\1" * 4096)
            with open(f"/proc/{mount.pid}/statm") as f:
                used = int(f.read().split()[0]) * os.sysconf("SC_PAGESIZE")
            lib.run("prlimit", "--pid", mount.pid, f"--as={used + 65536}:")
            self.assert_errno(errno.ENOMEM, lib.read_direct, mount / "default/disk.raw", lib.MIB, 0)
            self.assertEqual(lib.read_direct(mount / "default/disk.raw", 4096, 65536), b"\1" * 4096)
            lib.run("prlimit", "--pid", mount.pid, "--as=unlimited:")
            self.assertEqual(lib.read_direct(mount / "default/disk.raw", lib.MIB, 0), b"\1" * lib.MIB)

    def test_resources_in_status(self):
        server = KilledServer(self, self.image(1))
        with self.mount(server.uri, options=["-C", "2"]) as mount:
            mount.read("default/disk.raw", "rb")
            status = mount.json(".fleecefs/status.json")
            self.assertLess(status["file_descriptors"], 40)
            self.assertLess(status["threads"], 20)
            self.assertLess(status["memory_bytes"], 100 * lib.MIB)
            self.assertLessEqual(status["cache_bytes"], status["cache_limit"])
            self.assertEqual(status["exports"][0]["extents"], 2)


if __name__ == "__main__":
    lib.main()
