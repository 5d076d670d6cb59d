#!/usr/bin/env python3
"""If another program ends the backup job, reads return data of the snapshot or an error.

Without its backup job, QEMU's export serves the live disk; the event that reports the job's end may be
late. Only on a direct connection to QEMU's monitor socket does it arrive before the data.
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
    """Checks that all readers got an error and no live data; returns their number of reads."""
    for reader in readers:
        reader.join(lib.PATIENCE)
    test.assertEqual(len(found), len(readers), "a reader hangs")
    test.assertEqual({(number, live) for _, number, live in found}, {(errno.EIO, False)},
                     f"{what}: {found}")
    return sum(count for count, _, _ in found)


class QmpConfirm(lib.TestCase):
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

    def job_queries(self):
        """Returns how many times the daemon has queried QEMU's jobs."""
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
        """Reads bypassing the page cache; returns (bytes, 0) or (None, errno)."""
        fd, buf = os.open(path, os.O_RDONLY | os.O_DIRECT), mmap.mmap(-1, length)
        try:
            return buf[:os.preadv(fd, [buf], offset)], 0
        except OSError as error:
            return None, error.errno
        finally:
            os.close(fd)

    # Monitors whose events are late or missing

    def test_missing_events(self):
        """The disk's job is queried before data are returned."""
        monitor = Filter(self.vm)
        mount = self.begin(monitor.path)
        self.assertEqual(self.read(mount / "vda/disk.raw", 0, 65536), (bytes([OLD]) * 65536, 0))
        monitor.edit = lambda message: None if "event" in message else message
        self.at_once(self.cancel("vda"))
        self.vm.qmp.wait("JOB_STATUS_CHANGE", id="fleecefs-0-job", status="concluded")
        self.at_once(self.overwrite("vda"))
        self.assertEqual(self.read(mount / "vda/disk.raw", lib.MIB, 65536), (None, errno.EIO))
        # The snapshot of the other disk is intact.
        self.assertEqual(self.read(mount / "vdb/disk.raw", 0, 65536), (bytes([OLD]) * 65536, 0))
        states = {d["name"]: d["state"] for d in mount.json(".fleecefs/status.json")["exports"]}
        self.assertEqual(states, {"vda": "failed", "vdb": "ok"})
        done = self.fleecefs("--commit", "--force", mount.point)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, "disk vda is lost: its backup job in QEMU has ended")
        self.end(mount, "--abort")

    def test_maps_of_a_disk_that_is_live(self):
        """Maps are loaded on first access, which may be too late."""
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
        """Reads fail meanwhile; nothing hangs, and nothing is lost."""
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
        """QEMU continues: jobs are queried through the next connection."""
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

    # Monitors that report events in time

    def read_all(self, mount):
        for name in self.vm.disks:
            for offset in range(0, 16 * lib.MIB, 128 * 1024):
                self.assertEqual(self.read(mount / f"{name}/disk.raw", offset, 4096),
                                 (bytes([OLD]) * 4096, 0))

    def test_no_event_means_no_change(self):
        mount = self.begin(self.vm.monitor)
        self.read(mount / "vda/disk.raw", 0, 4096)
        before = self.job_queries()
        self.assertGreater(before, 0)
        self.read_all(mount)
        # Queries are only needed while the daemon checks the scratch files.
        self.assertLess(self.job_queries() - before, 128)
        # After any event it queries again.
        self.vm.qmp("system_reset")
        self.vm.qmp.wait("RESET")
        before = self.job_queries()
        self.read_all(mount)
        self.assertIn(self.job_queries() - before, range(1, 128))
        self.end(mount, "--abort")

    def test_paused_guest(self):
        """Its images may be handed over (migration) without an event: each read queries."""
        mount = self.begin(self.vm.monitor)
        self.vm.qmp("stop")
        before = self.job_queries()
        self.read_all(mount)
        self.assertGreaterEqual(self.job_queries() - before, 256)
        self.vm.qmp("cont")
        self.end(mount, "--abort")

    def test_relay(self):
        """Events may be delayed by it: each read queries."""
        monitor = Filter(self.vm)
        mount = self.begin(monitor.path)
        before = self.job_queries()
        self.read_all(mount)
        self.assertGreaterEqual(self.job_queries() - before, 256)
        self.end(mount, "--abort")

    # At random

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
            # Alternates between QEMU's own socket and a relay.
            mount = self.begin(Filter(vm).path if round_ % 2 else vm.monitor)
            ready, found = threading.Semaphore(0), []
            readers = [threading.Thread(target=self.read_at_random, args=(
                mount / f"{name}/disk.raw", self.rng.random(), ready, found))
                for name in vm.disks for _ in range(READERS)]
            for reader in readers:
                reader.start()
            for _ in readers:
                ready.acquire()
            # Before, during and after the writes.
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
