#!/usr/bin/env python3
"""Faults during a snapshot, and VMs that cannot be backed up."""
import os
import subprocess

import lib
from monitor import Filter
from vm import Disk, Refused, StuckClient, Vm

NULL = '{"driver": "null-co", "node-name": "%s", "size": 1048576, "read-only": true}'


class Faults(lib.TestCase):
    def begin(self, disks=1, **kwargs):
        vm = Vm(self, [Disk(self, f"vd{c}", lib.MIB) for c in "abc"[:disks]], **kwargs)
        vm.begin().finish("commit")
        vm.scribble(self.rng, 2)
        return vm, vm.points()

    def check_clean(self, vm, points):
        self.assertEqual(vm.leftovers(), [])
        self.assertEqual(vm.points(), points)

    # Lost while it is read

    def test_job_cancelled_by_someone_else(self):
        vm, points = self.begin(disks=2)
        snapshot = vm.begin()
        number = list(snapshot.disks).index("vdb")
        vm.qmp("job-cancel", id=f"fleecefs-{number}-job")
        self.assertRegex(snapshot.line(), "^lost: vdb: its backup job in QEMU has ended")
        # The other disk's snapshot is intact.
        before = bytes(vm.disks["vda"].model)
        vm.scribble(self.rng, 2)
        self.assertTrue(snapshot.read("vda") == before)
        self.assertRegex(snapshot.ask("commit"), "^failed: .*vdb is lost: its backup job")
        self.assertTrue(snapshot.read("vda") == before)
        snapshot.finish("abort")
        self.check_clean(vm, points)

    def test_a_lost_disk_is_never_served_live(self):
        vm, _ = self.begin()
        snapshot = vm.begin()
        vm.qmp("job-cancel", id="fleecefs-0-job")
        self.assertRegex(snapshot.line(), "^lost: vda: ")
        snapshot.ask("scratch")
        if not vm.qmp("query-block-exports"):
            return
        vm.qmp.wait("BLOCK_EXPORT_DELETED", id="fleecefs-0-export")

    def test_export_removed_by_someone_else(self):
        vm, points = self.begin()
        snapshot = vm.begin()
        vm.qmp("block-export-del", id="fleecefs-0-export")
        self.assertRegex(snapshot.line(), "^lost: vda: its export was removed")
        self.assertRegex(snapshot.ask("commit"), "^failed: ")
        snapshot.finish("abort")
        self.check_clean(vm, points)

    def test_disk_unplugged(self):
        # A SCSI disk can be unplugged without the guest's cooperation.
        vm = Vm(self, [Disk(self, "vda", lib.MIB)], [
            "-device", "virtio-scsi-pci", "-blockdev", NULL.replace("true", "false") % "sda",
            "-device", "scsi-hd,id=dev-sda,drive=sda"])
        snapshot = vm.begin()
        vm.qmp("device_del", id="dev-sda")
        vm.qmp.wait("DEVICE_DELETED", device="dev-sda")
        self.assertRegex(snapshot.line(), "^lost: sda: ")
        self.assertRegex(snapshot.ask("commit"), "^failed: .* sda is lost")
        snapshot.finish("abort")
        self.check_clean(vm, {})

    def test_qemu_killed(self):
        vm, _ = self.begin()
        vm.quit()
        vm.start()
        snapshot = vm.begin()
        self.assertIn("base", snapshot.disks["vda"])
        vm.kill()
        self.assertRegex(snapshot.line(), "^lost: vda: QEMU has ended")
        self.assertRegex(snapshot.ask("commit"), "^failed: ")
        self.assertRegex(snapshot.ask("abort"), "^left: .*QEMU has ended")
        vm.start()
        snapshot = vm.begin()
        self.assertRegex(snapshot.disks["vda"]["reason"], "QEMU did not exit cleanly")
        snapshot.finish("commit")
        self.assertEqual([len(p) for p in vm.points().values()], [1])
        snapshot = vm.begin()
        self.assertIn("base", snapshot.disks["vda"])

    def test_qemu_quits(self):
        """The old restore point was saved and continues; the new one was never committed."""
        vm, points = self.begin()
        snapshot = vm.begin()
        before = bytes(vm.disks["vda"].model)
        vm.scribble(self.rng, 2)
        old = [snapshot.map("vda"), before]
        vm.quit()
        self.assertRegex(snapshot.line(), "^lost: vda: ")
        snapshot.kill()
        vm.start()
        self.assertEqual(len(vm.points()["vda"]), 2)
        vm.scribble(self.rng, 2)
        now = bytes(vm.disks["vda"].model)
        snapshot = vm.begin()
        self.assertEqual(["fleecefs.last." + snapshot.disks["vda"]["base"]], points["vda"])
        self.assertTrue(snapshot.read("vda") == now)
        dirty = set()
        for start, end in snapshot.map("vda"):
            dirty |= set(range(start, end, 65536))
        self.assertTrue(all(start in dirty for start, _ in old[0]))
        snapshot.finish("commit")

    def test_restart_between_backups(self):
        """Restore points of qcow2 outlive QEMU; those of raw disks do not, which is reported."""
        vm = Vm(self, [Disk(self, "vda", lib.MIB), Disk(self, "vdb", lib.MIB, kind="raw"),
                       Disk(self, "vdc", lib.MIB, kind="data-file")])
        vm.begin().finish("commit")
        vm.quit()
        vm.start()
        snapshot = vm.begin()
        self.assertIn("base", snapshot.disks["vda"])
        self.assertIn("base", snapshot.disks["vdc"])
        self.assertRegex(snapshot.disks["vdb"]["reason"], "only in memory and are lost when QEMU exits")

    def test_first_backup_cut_by_a_clean_quit(self):
        """A restore point that QEMU saved without a commit must not become a base."""
        vm = Vm(self, [Disk(self, "vda", lib.MIB)])
        snapshot = vm.begin()
        snapshot.kill()
        vm.quit()
        for name in os.listdir(vm.state):
            os.unlink(os.path.join(vm.state, name))
        vm.start()
        self.assertEqual(len(vm.points()["vda"]), 1)
        self.assertNotIn("base", vm.begin().disks["vda"])

    def test_restore_point_removed_by_someone_else(self):
        """The commit fails after the exports have ended; nothing is lost."""
        vm, points = self.begin(disks=2)
        snapshot = vm.begin()
        name = "fleecefs.last." + snapshot.disks["vdb"]["restore_point"]
        vm.qmp("block-dirty-bitmap-remove", node="vdb", name=name)
        self.assertRegex(snapshot.ask("commit"), "^failed: .*vdb: restore point .* was removed by another program")
        snapshot.finish("abort")
        self.check_clean(vm, points)

    # Scratch

    def small_scratch(self, size):
        folder = self.mkdir("scratch")
        done = lib.attempt("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
        if done.returncode != 0:
            self.skipTest("cannot mount a tmpfs: " + done.stderr)
        self.defer(subprocess.run, ["umount", "-l", folder])
        return folder

    def test_scratch_too_small(self):
        vm, points = self.begin()
        with self.assertRaisesRegex(Refused, "scratch directory .* MiB free, at least"):
            vm.begin("--scratch", self.small_scratch("1m"))
        self.check_clean(vm, points)
        with self.assertRaisesRegex(Refused, "scratch directory /nowhere"):
            vm.begin("--scratch", "/nowhere")

    def test_scratch_full(self):
        """The guest continues, the disk that used the most space is lost, and the space is freed."""
        vm = Vm(self, [Disk(self, "vda", 160 * lib.MIB), Disk(self, "vdb", lib.MIB)])
        vm.write("vda", 0, 160 * lib.MIB, 1)
        vm.begin().finish("commit")
        points = vm.points()
        folder = self.small_scratch("128m")
        snapshot = vm.begin("--scratch", folder)
        for offset in range(0, 160 * lib.MIB, lib.MIB):
            vm.write("vda", offset, lib.MIB, 2)
        self.assertRegex(snapshot.line(), "^lost: vda: the scratch directory .* is full")
        self.assertTrue(snapshot.read("vdb") == vm.disks["vdb"].model)
        self.assertRegex(snapshot.ask("commit"), "^failed: ")
        free = os.statvfs(folder)
        self.assertGreater(free.f_bavail * free.f_frsize, 120 * lib.MIB)
        vm.write("vda", 0, 160 * lib.MIB, 3)
        snapshot.finish("abort")
        self.check_clean(vm, points)

    def test_werror_report(self):
        """QEMU would not pause the guest on ENOSPC, so scratch space must suffice for the whole disk."""
        size = 64 * lib.MIB
        vm = Vm(self, [Disk(self, "vda", size, options="werror=report"), Disk(self, "vdb", size)])
        vm.write("vda", 0, size, 1)
        with self.assertRaisesRegex(Refused, "scratch directory .* MiB free, at least 9[0-9] MiB are "
                                             r"needed, because all of disk vda must fit: .*\(werror=report\)"):
            vm.begin("--scratch", self.small_scratch("48m"))
        vm.begin("--scratch", self.small_scratch("48m"), "--disk", "vdb").finish("commit")
        snapshot = vm.begin("--scratch", self.small_scratch("160m"))
        path = f"/machine/peripheral/{vm.disks['vda'].device}/virtio-backend"
        for offset in range(size >> 20):
            vm.qmp("human-monitor-command",
                   command_line=f'qemu-io -d {path} "aio_write -q -P 2 {offset}M 1M"')
        vm.io("vda", "aio_flush")
        self.assertTrue(snapshot.read("vda") == bytes([1]) * size)
        vm.disks["vda"].model[:] = bytes([2]) * size
        snapshot.finish("commit")

    def test_write_threshold(self):
        """QEMU reports when a scratch file has grown; the file may grow while there is space."""
        vm = Vm(self, [Disk(self, "vda", 32 * lib.MIB)])
        vm.write("vda", 0, 32 * lib.MIB, 1)
        snapshot = vm.begin("--scratch", self.small_scratch("64m"))

        def threshold():
            return next(n["write_threshold"] for n in vm.qmp("query-named-block-nodes", flat=True)
                        if n["node-name"] == "fleecefs-0-file")

        first = threshold()
        self.assertTrue(14 * lib.MIB < first < 18 * lib.MIB, first)
        vm.write("vda", 0, 18 * lib.MIB, 2)
        vm.qmp.wait("BLOCK_WRITE_THRESHOLD")
        # The event clears the threshold until the daemon sets the next one.
        while threshold() == 0:
            pass
        self.assertGreater(threshold(), first)
        self.assertTrue(snapshot.read("vda") == bytes([1]) * 32 * lib.MIB)
        snapshot.finish("commit")

    def test_scratch_use_is_reported(self):
        vm = Vm(self, [Disk(self, "vda")])
        vm.write("vda", 0, lib.MIB, 1)
        snapshot = vm.begin()
        before = int(snapshot.ask("scratch").split()[0])
        vm.write("vda", 0, lib.MIB, 2)
        # The daemon reports the value of its last check.
        used = before
        while used < before + lib.MIB:
            used, limit = map(int, snapshot.ask("scratch").split())
        self.assertGreater(limit, used)

    # Clients that do not disconnect

    def test_client_that_reads_no_replies(self):
        """Its export cannot end while it is connected; nothing else waits for that."""
        vm, points = self.begin()
        snapshot = vm.begin()
        client = StuckClient(self, snapshot)
        answer = snapshot.ask("abort")
        self.assertRegex(answer, "^left: .*export fleecefs-0-export does not end: one of its clients")
        # The job is kept, because cancelling it would block QEMU.
        jobs = [job["id"] for job in vm.qmp("query-jobs")]
        if vm.version() < (8, 0, 0):
            self.assertEqual(jobs, [])
        else:
            self.assertEqual(jobs, ["fleecefs-0-job"])
            self.assertIn("job stays", answer)
        # Guest writes are not blocked, nor is another attempt, which has the same result.
        vm.scribble(self.rng, 2)
        with self.assertRaisesRegex(AssertionError, "export fleecefs-0-export does not end"):
            vm.recover()
        vm.scribble(self.rng, 2)
        client.close()
        vm.qmp.wait("BLOCK_EXPORT_DELETED", id="fleecefs-0-export")
        vm.recover()
        self.check_clean(vm, points)

    # Refused

    def test_disk_in_use_by_a_job(self):
        vm, points = self.begin()
        target = Disk(self, "target", lib.MIB)
        vm.qmp("blockdev-add", driver="qcow2", node_name="target",
               file={"driver": "file", "filename": target.image})
        vm.qmp("blockdev-mirror", job_id="mirror", device="vda", target="target", sync="full")
        vm.qmp.wait("BLOCK_JOB_READY")
        with self.assertRaisesRegex(Refused, "block job"):
            vm.begin()
        vm.qmp("job-cancel", id="mirror")
        vm.qmp.wait("JOB_STATUS_CHANGE", id="mirror", status="null")
        self.check_clean(vm, points)

    def test_iothread(self):
        """Refused if QEMU would crash when a client disconnects; otherwise an ordinary disk."""
        scsi = Disk(self, "sda", lib.MIB)
        lib.run("qemu-io", "-c", "write -P 7 64k 64k", scsi.image)
        node = scsi.arguments()[:2]
        vm = Vm(self, [Disk(self, "vda", iothread="t0"), Disk(self, "vdb", iothread="t1"),
                       Disk(self, "vdc")], [
            "-object", "iothread,id=t0", "-object", "iothread,id=t1", *node,
            "-device", "virtio-scsi-pci,id=scsi0,iothread=t0",
            "-device", "scsi-hd,bus=scsi0.0,drive=sda"])
        if vm.version() < (8, 2, 3):
            for name in "vda", "vdb", "sda":
                with self.assertRaisesRegex(Refused,
                                            f"disk {name} runs in an iothread.* 8.2.3, 9.0"):
                    vm.begin("--disk", name)
            vm.begin("--disk", "vdc").finish("commit")
            return
        backups = dict.fromkeys(vm.disks)
        for _ in range(5):
            vm.scribble(self.rng, 3)
            before = {name: bytes(disk.model) for name, disk in vm.disks.items()}
            snapshot = vm.begin()
            vm.scribble(self.rng, 3)
            for name, backup in backups.items():
                self.assertTrue(snapshot.read(name) == before[name], name)
                backups[name] = snapshot.backup(name, backup)
                self.assertTrue(backups[name] == before[name], name)
            self.assertEqual(snapshot.read("sda")[64 * lib.KIB:128 * lib.KIB],
                             bytes([7]) * 64 * lib.KIB)
            snapshot.finish("commit")
        # Clients and a daemon are killed while they read.
        snapshot = vm.begin()
        clients = [StuckClient(self, snapshot) for _ in range(4)]
        for client in clients:
            client.close()
        snapshot.kill()
        vm.recover()
        self.check_clean(vm, vm.points())
        self.assertEqual(vm.qmp("query-status")["status"], "running")

    def test_qemu_is_too_old(self):
        """Its features are probed, not its version."""
        vm, points = self.begin()

        def forget(message):
            if "return" in message and monitor.commands[-1] == "query-qmp-schema":
                for entry in message["return"]:
                    if entry["name"] == "block-export-add":
                        entry["name"] = "block-export-sub"
            return message

        monitor = Filter(vm, forget)
        with self.assertRaisesRegex(Refused, r"this QEMU \([0-9.]+\) has no block-export-add, which "
                                    "requires 5.2"):
            vm.begin(monitor=monitor.path)
        self.assertNotIn("blockdev-add", monitor.commands)
        self.check_clean(vm, points)

    def test_no_monitor(self):
        vm, _ = self.begin()
        with self.assertRaisesRegex(Refused, "(?s)/nowhere"):
            vm.begin(monitor="/nowhere")
        with self.assertRaisesRegex(Refused, "a name consists of 1 to 100 letters"):
            vm.begin("--series", "a/b")

    def test_read_only_disk_that_is_asked_for(self):
        vm = Vm(self, [Disk(self, "vda", lib.MIB)], [
            "-blockdev", NULL % "ro",
            "-device", "virtio-blk-pci,drive=ro"])
        with self.assertRaisesRegex(Refused, "cannot back up disk ro: it is read-only"):
            vm.begin("--disk", "ro")
        self.assertEqual(set(vm.begin().disks), {"vda"})


if __name__ == "__main__":
    lib.main()
