#!/usr/bin/env python3
"""Migrations: fleecefs does not touch images that QEMU has handed over or does not own yet."""
import hashlib
import os
import socket

import lib
from vm import Disk, QmpError, Vm


# Source and target are one guest; its memory is large enough for a slow migration.
GUEST = ["-uuid", "6b2c0f3e-59a4-4f0e-9a53-0e6a1f1c7b11", "-m", "512"]


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


class Migrate(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.disks = [Disk(self, "vda", lib.MIB * 4), Disk(self, "vdb", lib.MIB, kind="raw")]
        self.source = Vm(self, self.disks, GUEST)
        self.images = [d.image for d in self.disks]

    def fleecefs(self, vm, *args):
        return lib.attempt(*lib.FLEECEFS, *args, env=vm.environment())

    def mounted(self, vm):
        return self.mount("qmp:" + vm.monitor, env=vm.environment(),
                          options=["-o", f"scratch={self.dir},timeout=20"])

    def read(self, mount, name):
        with open(mount / f"{name}/disk.raw", "rb") as f:
            return f.read()

    def back_up(self, vm):
        """Takes and commits a backup of all disks, which must match their models."""
        mount = self.mounted(vm)
        for disk in self.disks:
            self.assertTrue(self.read(mount, disk.name) == bytes(disk.model), disk.name)
        info = {d.name: mount.json(f"{d.name}/info.json") for d in self.disks}
        done = self.fleecefs(vm, "--commit", mount.point)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return info

    def refused(self, vm, says):
        """Checks that mount and --recover are refused and do not change the images."""
        before = [digest(i) for i in self.images]
        point = self.mkdir("point")
        for args in (["-o", f"scratch={self.dir}", "qmp:" + vm.monitor, point],
                     ["--recover", "qmp:" + vm.monitor]):
            done = self.fleecefs(vm, *args)
            self.assertEqual((done.returncode, done.stdout), (1, ""), done.stderr)
            self.assertRegex(done.stderr, f"^fleecefs: [^\n]*{says}[^\n]*\n$")
        os.rmdir(point)
        self.assertEqual([digest(i) for i in self.images], before)

    @staticmethod
    def reports_active(vm):
        """Whether QEMU reports which images are active."""
        return "active" in vm.qmp("query-block")[0]["inserted"]

    def target(self):
        return Vm(self, self.disks, [*GUEST, "-incoming", "defer"])

    def check_image(self):
        """Compares the images with their models, after all VMs have ended."""
        for disk in self.disks:
            plain = self.path("plain")
            if disk.kind == "qcow2":
                lib.run("qemu-img", "check", disk.image)
            lib.run("qemu-img", "convert", "-f", disk.format, "-O", "raw", disk.image, plain)
            with open(plain, "rb") as f:
                self.assertTrue(f.read() == bytes(disk.model), disk.name)

    def test_before_and_after(self):
        """The chain continues at the target; the source is refused in any state."""
        self.source.write("vda", 0, lib.MIB, 1)
        first = self.back_up(self.source)
        target = self.target()
        self.refused(target, "waits for an incoming migration")
        self.source.write("vda", 65536, 65536, 2)
        self.source.migrate(target)
        self.refused(self.source, "was migrated away .run state postmigrate.*on the host where it runs")
        target.write("vda", lib.MIB * 2, 65536, 3)
        self.refused(self.source, "was migrated away")
        second = self.back_up(target)
        self.assertEqual((second["vda"]["mode"], second["vda"]["base"]),
                         ("incremental", first["vda"]["restore_point"]))
        self.source.quit()
        target.write("vda", lib.MIB * 3, 65536, 4)
        third = self.back_up(target)
        self.assertEqual(third["vda"]["base"], second["vda"]["restore_point"])
        target.quit()
        self.check_image()

    def test_taken_back(self):
        """A source that resumes after all owns its images again."""
        first = self.back_up(self.source)
        self.source.qmp("migrate-set-capabilities",
                        capabilities=[{"capability": "events", "state": True}])
        self.source.qmp("migrate", uri="exec:cat >/dev/null")
        self.source.qmp.wait("MIGRATION", status="completed")
        self.refused(self.source, "was migrated away")
        self.source.qmp("cont")
        self.source.write("vda", lib.MIB, 65536, 5)
        second = self.back_up(self.source)
        self.assertEqual((second["vda"]["mode"], second["vda"]["base"]),
                         ("incremental", first["vda"]["restore_point"]))

    def test_resumed_late(self):
        """With late-block-activate, a target that was not resumed does not own its images yet."""
        self.source.qmp("stop")
        target = self.target()
        for vm in self.source, target:
            vm.qmp("migrate-set-capabilities",
                   capabilities=[{"capability": "late-block-activate", "state": True}])
        target.qmp("migrate-set-capabilities",
                   capabilities=[{"capability": "events", "state": True}])
        path = self.path("migration")
        target.qmp("migrate-incoming", uri=f"unix:{path}")
        self.source.qmp("migrate", uri=f"unix:{path}")
        target.qmp.wait("MIGRATION", status="completed")
        self.refused(target, "not resumed since")
        target.qmp("cont")
        self.back_up(target)
        self.refused(self.source, "was migrated away")
        target.qmp("stop")
        if self.reports_active(target):
            self.back_up(target)
        else:
            self.refused(target, "not resumed since")

    def begin_slow(self, vm):
        """Starts a migration that blocks because nobody reads it. Returns the listening socket that
        receives it."""
        path = self.path("migration")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        self.defer(listener.close)
        vm.qmp("migrate-set-capabilities",
               capabilities=[{"capability": "events", "state": True}])
        vm.qmp("migrate", uri=f"unix:{path}")
        vm.qmp.wait("MIGRATION", status="active")
        return listener

    def forward(self, listener, target):
        """Forwards the migration to TARGET."""
        path = self.path("target")
        target.qmp("migrate-incoming", uri=f"unix:{path}")
        with listener.accept()[0] as source, socket.socket(socket.AF_UNIX) as sink:
            sink.connect(path)
            while data := source.recv(1 << 16):
                sink.sendall(data)

    def test_under_way(self):
        vm = self.source
        first = self.back_up(vm)
        self.begin_slow(vm)
        before = [digest(i) for i in self.images]
        done = self.fleecefs(vm, "-o", f"scratch={self.dir}", "qmp:" + vm.monitor,
                             self.mkdir("point"))
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, "is being migrated .active.: after that")
        self.assertEqual([digest(i) for i in self.images], before)
        vm.qmp("migrate_cancel")
        vm.qmp.wait("MIGRATION", status="cancelled")
        vm.write("vda", lib.MIB, 65536, 6)
        self.assertEqual(self.back_up(vm)["vda"]["base"], first["vda"]["restore_point"])

    def test_during_a_session(self):
        """It ends the session: reads fail, commit is refused, and the next backup includes everything."""
        vm = self.source
        first = self.back_up(vm)
        vm.write("vda", lib.MIB, 65536, 7)
        mount = self.mounted(vm)
        self.begin_slow(vm)
        # The session's jobs, which would prevent the migration's end, end by themselves.
        while vm.qmp("query-block-exports"):
            vm.qmp.wait("BLOCK_EXPORT_DELETED")
        with self.assertRaises(OSError):
            self.read(mount, "vda")
        for force in ([], ["--force"]):
            done = self.fleecefs(vm, "--commit", *force, mount.point)
            self.assertEqual(done.returncode, 1)
            self.assertRegex(done.stderr, "is being migrated|it failed")
        vm.qmp("migrate_cancel")
        vm.qmp.wait("MIGRATION", status="cancelled")
        done = self.fleecefs(vm, "--abort", mount.point)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(vm.leftovers(), [])
        self.assertEqual(self.back_up(vm)["vda"]["base"], first["vda"]["restore_point"])

    def test_away_during_a_session(self):
        """Leftovers in the disks are cleaned up at the target, not by the source."""
        vm = self.source
        first = self.back_up(vm)
        vm.write("vda", lib.MIB, 65536, 8)
        target = self.target()
        mount = self.mounted(vm)
        listener = self.begin_slow(vm)
        # The migration's end would fail while there are jobs.
        while vm.qmp("query-jobs"):
            vm.qmp.wait("JOB_STATUS_CHANGE", status="null")
        self.forward(listener, target)
        vm.qmp.wait("MIGRATION", status="completed")
        target.qmp.wait("RESUME")
        target.write("vda", lib.MIB * 2, 65536, 9)
        target.qmp("human-monitor-command",
                   command_line='qemu-io -d /machine/peripheral/dev-vda/virtio-backend "flush"')
        before = [digest(i) for i in self.images]
        for how in (["--commit", "--force"], ["--abort"]):
            done = self.fleecefs(vm, *how, mount.point)
            self.assertNotEqual(done.returncode, 0)
            self.assertRegex(done.stderr, "migrated away")
            self.assertEqual([digest(i) for i in self.images], before)
        vm.quit()
        second = self.back_up(target)
        self.assertEqual((second["vda"]["mode"], second["vda"]["base"]),
                         ("incremental", first["vda"]["restore_point"]))
        self.assertEqual(target.leftovers(), [])
        target.quit()
        self.check_image()

    def test_inactive(self):
        """An image that QEMU reports as inactive is not touched, whatever the run state."""
        vm = self.source
        if not self.reports_active(vm):
            self.skipTest("this QEMU does not report which images are active")
        first = self.back_up(vm)
        # A killed session leaves an uncommitted restore point in the image.
        self.mounted(vm).kill()
        vm.write("vda", 0, 65536, 10)
        with self.assertRaisesRegex(QmpError, "active parent"):
            vm.qmp("blockdev-set-active", node_name="vda", active=False)
        vm.quit()
        vm.start()
        points = vm.points()["vda"]
        self.assertEqual(len(points), 2)
        vm.qmp("blockdev-set-active", node_name="vda", active=False)
        before = [digest(i) for i in self.images]
        for status, *args in (
                (1, "-o", f"scratch={self.dir}", "qmp:" + vm.monitor, self.mkdir("point")),
                (3, "--forget", "qmp:" + vm.monitor)):
            done = self.fleecefs(vm, *args)
            self.assertEqual((done.returncode, done.stdout), (status, ""))
            self.assertRegex(done.stderr, "disk vda is inactive in this QEMU, so another one may")
        # The leftover is removed once the image is active again.
        self.assertEqual(self.fleecefs(vm, "--recover", "qmp:" + vm.monitor).returncode, 0)
        self.assertEqual([digest(i) for i in self.images], before)
        vm.qmp("blockdev-set-active", node_name="vda", active=True)
        self.assertEqual(vm.points()["vda"], points)
        second = self.back_up(vm)
        self.assertEqual(second["vda"]["base"], first["vda"]["restore_point"])
        self.assertEqual(len(vm.points()["vda"]), 1)


if __name__ == "__main__":
    lib.main()
