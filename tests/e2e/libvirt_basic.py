#!/usr/bin/env python3
"""Snapshots of domains of a real libvirtd: contents of snapshots and increments, and cleanup."""
import os

import lib
from libvirtd import Domain
from vm import Disk, Refused


class Basic(lib.TestCase):
    def check_backup(self, vm, backup, *options, changes=True):
        """Takes a snapshot and checks that a backup of it matches the VM; returns the snapshot."""
        expected = {n: bytes(d.model) for n, d in vm.disks.items()}
        snapshot = vm.begin(*options)
        if changes:
            vm.scribble(self.rng, 1)
        for name in snapshot.disks:
            self.assertTrue(snapshot.read(name) == expected[name], name)
            backup[name] = snapshot.backup(name, backup.get(name))
            self.assertTrue(backup[name] == expected[name], name)
        return snapshot

    def test_increments(self):
        """Full, increment, a failed run, and an increment with everything since the last commit."""
        vm = Domain(self, [Disk(self, "vda", lib.MIB), Disk(self, "vdb", lib.MIB, kind="raw")])
        good = {}
        for run, end in enumerate(("commit", "commit", "abort", "commit", "kill", "commit")):
            vm.scribble(self.rng, 2)
            backup = dict(good)
            snapshot = self.check_backup(vm, backup)
            self.assertEqual(set(snapshot.disks), {"vda", "vdb"})
            self.assertEqual("base" in snapshot.disks["vda"], run > 0)
            self.assertIn("format raw", snapshot.disks["vdb"]["reason"])
            self.assertEqual(snapshot.info["notes"], ["left out: sda (cdrom)"])
            if end == "kill":
                snapshot.kill()
                continue
            snapshot.finish(end)
            self.assertEqual(vm.leftovers(), [])
            self.assertEqual(len(vm.checkpoints()), 1)
            if end == "commit":
                good = backup
                self.assertEqual(vm.checkpoints(), [
                    "fleecefs.last." + snapshot.disks["vda"]["restore_point"]])
        print("begin %(begin_us)d us" % snapshot.info, end=" ")

    def test_iothread(self):
        """Refused if QEMU would crash when a client disconnects; otherwise an ordinary disk."""
        vm = Domain(self, [Disk(self, "vda", lib.MIB, iothread=1), Disk(self, "vdb", lib.MIB)])
        if vm.version() < (8, 2, 3):
            with self.assertRaisesRegex(Refused, "disk vda runs in an iothread"):
                vm.begin()
            vm.begin("--disk", "vdb").finish("commit")
            return
        backup = {}
        for _ in range(4):
            vm.scribble(self.rng, 2)
            self.check_backup(vm, backup).finish("commit")
            self.assertEqual(vm.leftovers(), [])
        self.check_backup(vm, dict(backup)).kill()
        vm.recover()
        self.assertEqual(vm.leftovers(), [])
        vm.scribble(self.rng, 2)
        self.check_backup(vm, backup).finish("commit")

    def test_first_run_that_was_killed(self):
        """A lone uncommitted checkpoint must not serve as a base, even without the state directory."""
        vm = Domain(self, [Disk(self, "vda", lib.MIB)])
        vm.begin().kill()
        self.assertEqual(len(vm.checkpoints()), 1)
        vm.state = self.mkdir("state")
        self.assertRegex(vm.recover(), "ended a backup job\ndeleted checkpoint fleecefs.last.")
        self.assertEqual((vm.recover(), vm.leftovers(), vm.checkpoints()), ("", [], []))
        vm.begin().kill()
        snapshot = vm.begin()
        self.assertNotIn("base", snapshot.disks["vda"])
        snapshot.finish("commit")

    def test_beside_other_checkpoints(self):
        """Checkpoints of virtnbdbackup, and changes since one of them."""
        lib.require("virtnbdbackup")
        vm = Domain(self, [Disk(self, "vda", lib.MIB)])
        theirs = self.mkdir("theirs")

        def virtnbdbackup(level):
            vm.libvirtd.run_inside(
                "virtnbdbackup", "-U", "qemu:///system", "-d", vm.name, "-l", level, "-o", theirs,
                "--scratchdir", vm.scratch, "-f", f"{vm.scratch}/theirs.sock")

        vm.write("vda", 0, 65536, 1)
        virtnbdbackup("full")
        vm.write("vda", 131072, 65536, 2)
        virtnbdbackup("inc")
        their_points = vm.checkpoints()
        self.assertEqual(len(their_points), 2)
        backup = {}
        self.check_backup(vm, backup, changes=False).finish("commit")
        vm.write("vda", 393216, 65536, 4)
        snapshot = self.check_backup(vm, backup, changes=False)
        self.assertEqual(snapshot.map("vda"), [(393216, 458752)])
        snapshot.finish("commit")
        since = vm.begin("--since", "virtnbdbackup.0")
        self.assertEqual(since.disks["vda"]["base"], "virtnbdbackup.0")
        self.assertEqual(since.map("vda"), [(131072, 196608), (393216, 458752)])
        since.finish("abort")
        with self.assertRaisesRegex(Refused, "no checkpoint 'x'; the VM has: .*virtnbdbackup.0"):
            vm.begin("--since", "x")
        ours = [n for n in vm.checkpoints() if n not in their_points]
        self.assertEqual((len(ours), len(vm.checkpoints())), (1, 3))
        # virtnbdbackup refuses to run beside foreign checkpoints.
        vm.virsh("checkpoint-delete", vm.name, ours[0])
        virtnbdbackup("inc")

    def test_backup_in_progress(self):
        vm = Domain(self, [Disk(self, "vda", lib.MIB)])
        xml = self.path("backup.xml")
        with open(xml, "w") as f:
            f.write(f"""<domainbackup mode='pull'><server transport='unix'
                socket='{vm.scratch}/nbd'/></domainbackup>""")
        vm.virsh("backup-begin", vm.name, xml)
        with self.assertRaisesRegex(Refused, f"another tool's backup .*{vm.scratch}/nbd.*domjobabort"):
            vm.begin()
        self.assertIn("nbd", vm.job())
        vm.virsh("domjobabort", vm.name)

    def test_vm_killed(self):
        """QEMU could not store its bitmaps: a full backup with that reason, then increments."""
        vm = Domain(self, [Disk(self, "vda", lib.MIB), Disk(self, "vdb", lib.MIB)])
        backup = {}
        self.check_backup(vm, backup).finish("commit")
        snapshot = vm.begin()
        for name in vm.disks:
            vm.io(name, "flush")
        vm.kill()
        line = snapshot.line()
        self.assertRegex(line, "lost: vd.: the VM has ended")
        self.assertRegex(snapshot.ask("commit"), "failed: .*cannot commit: .* is lost")
        self.assertRegex(snapshot.ask("abort"), "left: .*the VM has ended")
        snapshot.kill()
        vm.start()
        backup = {}
        snapshot = self.check_backup(vm, backup)
        self.assertRegex(snapshot.disks["vda"]["reason"], "restore point .* is lost")
        snapshot.finish("commit")
        self.assertEqual((vm.leftovers(), len(vm.checkpoints())), ([], 1))
        vm.scribble(self.rng, 1)
        snapshot = self.check_backup(vm, backup)
        self.assertIn("base", snapshot.disks["vdb"])
        snapshot.finish("commit")

    def test_shut_off(self):
        vm = Domain(self, [Disk(self, "vda", lib.MIB), Disk(self, "vdb", lib.MIB, kind="raw")])
        vm.begin().finish("commit")
        point = vm.checkpoints()[0]
        vm.write("vda", 65536, 65536, 1)
        vm.quit()
        snapshot = vm.begin()
        disk = snapshot.disks["vda"]
        self.assertEqual(disk["image"], vm.disks["vda"].image)
        self.assertEqual(disk["bitmaps"][0]["context"], "qemu:dirty-bitmap:" + point)
        self.assertEqual(disk["bitmaps"][0]["name"], "last")
        self.assertNotIn("restore_point", disk)
        self.assertIn(point, lib.run("qemu-img", "info", disk["image"]))
        self.assertIn("shut off", " ".join(snapshot.info["notes"]))
        snapshot.finish("commit")
        vm.start()
        snapshot = vm.begin()
        self.assertEqual(snapshot.map("vda"), [(65536, 131072)])
        snapshot.finish("commit")

    def test_transient(self):
        vm = Domain(self, [Disk(self, "vda", lib.MIB)], transient=True)
        backup = {}
        for run in range(2):
            snapshot = self.check_backup(vm, backup)
            self.assertEqual("base" in snapshot.disks["vda"], run > 0)
            self.assertIn("transient", " ".join(snapshot.info["notes"]))
            snapshot.finish("commit")

    def test_size_changed(self):
        vm = Domain(self, [Disk(self, "vda", lib.MIB), Disk(self, "vdb", lib.MIB)])
        vm.begin().finish("commit")
        vm.virsh("blockresize", vm.name, "vda", "2MiB")
        snapshot = vm.begin()
        self.assertIn("size changed", snapshot.disks["vda"]["reason"])
        self.assertEqual(snapshot.disks["vda"]["size"], 2 * lib.MIB)
        self.assertIn("base", snapshot.disks["vdb"])

    def test_disks_that_cannot_take_part(self):
        """They are reported and left out; requesting one is refused."""
        image, floppy = (Disk(self, name, lib.MIB, kind="raw").image for name in ("image", "floppy"))
        device = "<disk type='{}' device='{}'><driver name='qemu' type='raw'/><source {}/>" \
            "<target dev='{}' bus='{}'/>{}</disk>"
        vm = Domain(self, [Disk(self, "vda", lib.MIB)], devices="".join([
            device.format("file", "disk", f"file='{image}'", "vdb", "virtio", "<readonly/>"),
            device.format("file", "floppy", f"file='{floppy}'", "fda", "fdc", "<readonly/>"),
            device.format("file", "cdrom", f"file='{image}'", "sdb", "sata", "<readonly/>")]))
        snapshot = vm.begin()
        self.assertEqual(set(snapshot.disks), {"vda"})
        left_out, = (n for n in snapshot.info["notes"] if n.startswith("left out: "))
        self.assertEqual(sorted(left_out.removeprefix("left out: ").split(", ")),
                         ["fda (floppy)", "sda (cdrom)", "sdb (cdrom)", "vdb (read-only)"])
        snapshot.finish("commit")
        for name, why in (("vdb", "read-only"), ("fda", "floppy")):
            with self.assertRaisesRegex(Refused, f"cannot back up disk {name}: it is {why}"):
                vm.begin("--disk", name)

    def test_no_agent(self):
        """A guest without an agent is not frozen; requesting a freeze is refused."""
        vm = Domain(self, [Disk(self, "vda", lib.MIB)])
        with self.assertRaisesRegex(Refused, "cannot be frozen: its agent is not connected"):
            vm.begin("--agent", "any")
        snapshot = vm.begin("--agent", "any", "--agent-optional")
        self.assertEqual(snapshot.info["frozen_us"], 0)
        snapshot.finish("abort")
        self.assertEqual((vm.leftovers(), vm.checkpoints()), ([], []))

    def test_scratch_too_small(self):
        vm = Domain(self, [Disk(self, "vda", 16 * lib.MIB)])
        small = vm.libvirtd.small
        with open(f"{small}/other", "wb") as f:
            self.defer(os.unlink, f.name)
            os.posix_fallocate(f.fileno(), 0, 21 * lib.MIB)
        with self.assertRaisesRegex(Refused, f"scratch directory {small}: 3 MiB free, at least 6 "
                                             "MiB are needed; choose another with -o scratch=DIR"):
            vm.begin("--scratch", small)
        with self.assertRaisesRegex(Refused, "scratch directory /nowhere: No such file"):
            vm.begin("--scratch", "/nowhere")
        self.assertEqual((vm.leftovers(), vm.checkpoints()), ([], []))

    def test_chosen_disks(self):
        vm = Domain(self, [Disk(self, "vda", lib.MIB), Disk(self, "vdb", lib.MIB)])
        snapshot = vm.begin("--disk", "vdb")
        self.assertEqual(set(snapshot.disks), {"vdb"})
        snapshot.finish("commit")
        snapshot = vm.begin()
        self.assertIn("not in checkpoint", snapshot.disks["vda"]["reason"])
        self.assertIn("base", snapshot.disks["vdb"])
        snapshot.finish("abort")
        with self.assertRaisesRegex(Refused, "no disk 'vdx'; the VM has: vda, vdb"):
            vm.begin("--disk", "vdx")
        with self.assertRaisesRegex(Refused, "cannot back up disk sda: it is cdrom"):
            vm.begin("--disk", "sda")


if __name__ == "__main__":
    lib.main()
