#!/usr/bin/env python3
"""What is read of a snapshot whose job somebody else ends is the snapshot, or an error.

A QEMU whose backup job is gone goes on to serve the disk as it is now, and says so in an event that
comes when it comes. From a QEMU that has its monitor's socket for itself it comes in time.
"""
import errno
import json
import mmap
import os
import socket
import threading

import lib
from monitor import Filter
from vm import Disk, Vm

ROUNDS = int(os.environ.get("ROUNDS", "12"))
READERS = 3
OLD, NEW = 0x11, 0x22


def end_reading(test, readers, found, what):
    """Each reader has ended with an error and seen no live byte; how many reads they made."""
    for reader in readers:
        reader.join(lib.PATIENCE)
    test.assertEqual(len(found), len(readers), "a reader hangs")
    test.assertEqual({(number, live) for _, number, live in found}, {(errno.EIO, False)},
                     f"{what}: {found}")
    return sum(count for count, _, _ in found)


class QmpVouch(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.vm = Vm(self, [Disk(self, "vda"), Disk(self, "vdb", kind="raw")],
                     ["-uuid", "1f0c3f3a-1111-4222-8333-944455556666",
                      "-trace", "handle_qmp_command"], seen=True)
        for name in self.vm.disks:
            self.vm.write(name, 0, 16 * lib.MIB, OLD)

    def begin(self, monitor, options="readahead=0"):
        return self.mount("qmp:" + monitor, env=self.vm.environment(),
                          options=["-o", f"scratch={self.dir},{options}"])

    def end(self, mount, command):
        done = self.fleecefs(command, mount.point)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        mount.check_gone()
        self.assertEqual(self.vm.leftovers(), [])

    def at_once(self, *commands):
        """Sends commands to QEMU without waiting for the replies between them."""
        qmp = self.vm.qmp
        qmp.socket.sendall(b"".join(
            json.dumps({"execute": name, "arguments": args}).encode() + b"\n"
            for name, args in commands))
        for _ in commands:
            while "event" in (message := json.loads(qmp.file.readline())):
                qmp.events.append(message)
            self.assertIn("return", message)

    def questions(self):
        """How often QEMU was asked for its jobs so far."""
        return self.vm.said().count("query-jobs")

    def overwrite(self, name):
        """The guest overwrites all of a disk."""
        path = f"/machine/peripheral/dev-{name}/virtio-backend"
        return "human-monitor-command", {
            "command-line": f'qemu-io -d {path} "write -P {NEW} 0 16M"'}

    def cancel(self, name):
        number = list(self.vm.disks).index(name)
        return "job-cancel", {"id": f"fleecefs-{number}-job"}

    @staticmethod
    def read(path, offset, length):
        """Reads past the kernel's cache: (bytes, or None if there was an error, its number)."""
        fd, buf = os.open(path, os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, length)
        try:
            return buf[:os.preadv(fd, [buf], offset)], 0
        except OSError as error:
            return None, error.errno
        finally:
            os.close(fd)

    # With a monitor that does not tell

    def test_events_that_do_not_come(self):
        """The job of a disk is asked for before bytes of it are handed on."""
        monitor = Filter(self.vm)
        mount = self.begin(monitor.path)
        self.assertEqual(self.read(mount / "vda/disk.raw", 0, 65536), (bytes([OLD]) * 65536, 0))
        monitor.edit = lambda message: None if "event" in message else message
        self.at_once(self.cancel("vda"))
        self.vm.qmp.wait("JOB_STATUS_CHANGE", id="fleecefs-0-job", status="concluded")
        self.at_once(self.overwrite("vda"))
        self.assertEqual(self.read(mount / "vda/disk.raw", lib.MIB, 65536), (None, errno.EIO))
        # The snapshot of the other disk is as good as it was.
        self.assertEqual(self.read(mount / "vdb/disk.raw", 0, 65536), (bytes([OLD]) * 65536, 0))
        states = {d["name"]: d["state"] for d in mount.json(".fleecefs/status.json")["exports"]}
        self.assertEqual(states, {"vda": "failed", "vdb": "ok"})
        done = self.fleecefs("--commit", "--force", mount.point)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, "disk vda is lost: its backup job in QEMU has ended")
        self.end(mount, "--abort")

    def test_maps_of_a_disk_that_is_live(self):
        """Maps are loaded when somebody first looks, which may be too late."""
        monitor = Filter(self.vm)
        mount = self.begin(monitor.path)
        monitor.edit = lambda message: None if "event" in message else message
        self.at_once(self.cancel("vdb"))
        self.vm.qmp.wait("JOB_STATUS_CHANGE", id="fleecefs-1-job", status="concluded")
        self.vm.zero("vdb", 0, 8 * lib.MIB, "discard")
        for name in ("disk.raw", "disk.map", "disk.json", "disk.qcow2", "info.json"):
            self.assert_errno(errno.EIO, os.stat, mount / f"vdb/{name}")
        os.stat(mount / "vda/disk.map")
        self.end(mount, "--abort")

    def test_monitor_that_does_not_answer(self):
        """Nothing is believed meanwhile, nothing hangs, and nothing is lost by it."""
        monitor = Filter(self.vm)
        mount = self.begin(monitor.path, "readahead=0,timeout=2")
        path = mount / "vda/disk.raw"
        self.assertEqual(self.read(path, 0, 65536), (bytes([OLD]) * 65536, 0))
        silent = True
        monitor.edit = lambda message: None if silent else message
        self.assertEqual(self.read(path, lib.MIB, 65536), (None, errno.EIO))
        self.assert_errno(errno.EIO, os.stat, mount / "vdb/disk.map")
        silent = False
        self.assertEqual(self.read(path, lib.MIB, 65536), (bytes([OLD]) * 65536, 0))
        for name in self.vm.disks:
            self.assertEqual(mount.read(f"{name}/disk.raw", "rb"), bytes([OLD]) * 16 * lib.MIB)
        self.end(mount, "--commit")

    def test_monitor_that_closes(self):
        """QEMU goes on: it is asked by the next connection."""
        monitor = Filter(self.vm, connections=2)
        mount = self.begin(monitor.path)
        path = mount / "vdb/disk.raw"
        self.assertEqual(self.read(path, 0, 65536), (bytes([OLD]) * 65536, 0))
        monitor.client.shutdown(socket.SHUT_RDWR)
        before = len(monitor.commands)
        self.assertEqual(self.read(path, lib.MIB, 65536), (bytes([OLD]) * 65536, 0))
        self.assertIn("query-jobs", monitor.commands[before:])
        for name in self.vm.disks:
            self.assertEqual(mount.read(f"{name}/disk.raw", "rb"), bytes([OLD]) * 16 * lib.MIB)
        self.end(mount, "--commit")

    # With one that does

    def read_all(self, mount):
        for name in self.vm.disks:
            for offset in range(0, 16 * lib.MIB, 128 * 1024):
                self.assertEqual(self.read(mount / f"{name}/disk.raw", offset, 4096),
                                 (bytes([OLD]) * 4096, 0))

    def test_silence_is_an_answer(self):
        mount = self.begin(self.vm.monitor)
        self.read(mount / "vda/disk.raw", 0, 4096)
        before = self.questions()
        self.assertGreater(before, 0)
        self.read_all(mount)
        # Now and then the daemon sees to the scratch files, and cannot tell meanwhile.
        self.assertLess(self.questions() - before, 128)
        # After an event that means nothing it asks once more.
        self.vm.qmp("system_reset")
        self.vm.qmp.wait("RESET")
        before = self.questions()
        self.read_all(mount)
        self.assertIn(self.questions() - before, range(1, 128))
        self.end(mount, "--abort")

    def test_guest_that_stands_still(self):
        """It may be given away without a word."""
        mount = self.begin(self.vm.monitor)
        self.vm.qmp("stop")
        before = self.questions()
        self.read_all(mount)
        self.assertGreaterEqual(self.questions() - before, 256)
        self.vm.qmp("cont")
        self.end(mount, "--abort")

    def test_relay(self):
        """Its silence says nothing."""
        monitor = Filter(self.vm)
        mount = self.begin(monitor.path)
        before = self.questions()
        self.read_all(mount)
        self.assertGreaterEqual(self.questions() - before, 256)
        self.end(mount, "--abort")

    # As it comes

    def read_at_random(self, path, seed, ready, found):
        rng = lib.random.Random(seed)
        count = 0
        while True:
            length = rng.choice((4096, 65536, 512 * 1024))
            data, number = self.read(path, rng.randrange((16 * lib.MIB - length) // 4096) * 4096,
                                     length)
            if data is None or data != bytes([OLD]) * length:
                found.append((count, number, data is not None))
                return
            count += 1
            if count == 3:
                ready.release()

    def test_job_cancelled_at_any_time(self):
        vm, reads = self.vm, 0
        for round_ in range(ROUNDS):
            # By turns with QEMU's own socket and with a relay.
            mount = self.begin(Filter(vm).path if round_ % 2 else vm.monitor)
            ready, found = threading.Semaphore(0), []
            readers = [threading.Thread(target=self.read_at_random, args=(
                mount / f"{name}/disk.raw", self.rng.random(), ready, found))
                for name in vm.disks for _ in range(READERS)]
            for reader in readers:
                reader.start()
            for _ in readers:
                ready.acquire()
            # Before, in and after the overwriting.
            names = self.rng.sample(list(vm.disks), 2)
            commands = [self.overwrite(n) for n in names for _ in range(4)]
            for name in names:
                commands.insert(self.rng.randrange(len(commands)), self.cancel(name))
            self.at_once(*commands)
            reads += end_reading(self, readers, found, f"round {round_}")
            self.end(mount, "--abort")
            for name in vm.disks:
                vm.write(name, 0, 16 * lib.MIB, OLD)
        print(f"{ROUNDS} rounds, {reads} reads,", end=" ")


if __name__ == "__main__":
    lib.main()
