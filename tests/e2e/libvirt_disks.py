#!/usr/bin/env python3
"""Disks of domains that are not plain files of their own: what can be had of each, and what is said
of the rest."""
import json
import os

import disks
import lib
import qmp_mount
from libvirtd import Domain
from vm import Disk

MIB = lib.MIB


class LibvirtDisks(lib.TestCase):
    def begin(self, vm, *options):
        return self.mount(vm.source(), env=vm.environment(),
                          options=["-o", "scratch=" + vm.scratch, *options])

    def refused(self, vm, *options, says):
        done = self.fleecefs("-o", "scratch=" + vm.scratch, *options, vm.source(),
                             self.mkdir("mnt"))
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertRegex(done.stderr, rf"\Afleecefs: libvirt:[^\n]*{says}[^\n]*\n\Z")
        self.assertEqual(vm.leftovers(), [])

    def commit(self, mount):
        done = self.fleecefs("--commit", mount.point)
        self.assertEqual(done.returncode, 0, done.stderr)
        mount.check_gone()

    @staticmethod
    def disk(path, target, kind="file", driver="raw", source="", rest=""):
        source = source or f"<source file='{path}'/>"
        return (f"<disk type='{kind}' device='disk'><driver name='qemu' type='{driver}'/>{source}"
                f"<target dev='{target}' bus='virtio'/>{rest}</disk>")

    def test_shared(self):
        """Refused, or by name in full; and no restore point is made of it."""
        path = self.path("shared.raw")
        lib.run("qemu-img", "create", "-q", "-f", "raw", path, MIB)
        vm = Domain(self, [Disk(self, "vda", MIB)],
                    devices=self.disk(path, "vdb", rest="<shareable/>"))
        self.refused(vm, says=r"disk vdb is shared with other VMs \(<shareable/>\): .* -o disk=")
        for _ in range(2):
            mount = self.begin(vm, "-o", "disk=vda:vdb")
            self.assertIn("disk vdb is shared with other VMs: unless they are shut off",
                          mount.output())
            info = mount.json("vdb/info.json")
            self.assertEqual(info["mode"], "full")
            self.assertIn("shared with other VMs", info["reason"])
            self.assertNotIn("restore_point", info)
            mount.read("vda/disk.raw", "rb")
            mount.read("vdb/disk.raw", "rb")
            if os.path.exists(mount / "vda/dirty"):
                mount.read("vda/dirty/last.raw", "rb")
            self.commit(mount)
        mount = self.begin(vm, "-o", "disk=vda")
        self.assertEqual(mount.json("vda/info.json")["mode"], "incremental")

    def test_old_qcow2(self):
        """An image of the format's version 2 is backed up in full, beside one in increments."""
        path = self.path("old.qcow2")
        disks.create(path, MIB, options=["-o", "compat=0.10"])
        disks.qemu_io(path, [f"write -q -P 7 0 {MIB // 2}"])
        vm = Domain(self, [Disk(self, "vda", MIB)], devices=self.disk(path, "vdb", driver="qcow2"))
        for run in ("full", "incremental"):
            mount = self.begin(vm)
            self.assertEqual(mount.json("vda/info.json")["mode"], run)
            info = mount.json("vdb/info.json")
            self.assertEqual(info["mode"], "full")
            self.assertIn("compat=0.10) has no place for restore points; qemu-img amend",
                          info["reason"])
            self.assertEqual(mount.read("vdb/disk.raw", "rb"),
                             b"\x07" * (MIB // 2) + bytes(MIB // 2))
            name = "dirty/last.raw" if run == "incremental" else "disk.raw"
            mount.read("vda/" + name, "rb")
            self.commit(mount)

    def test_vhost_user(self):
        """QEMU has no node of such a disk: it is left out, by name, and the others are not."""
        lib.require("qemu-storage-daemon")
        path, sock = self.path("data"), self.path("vhost.sock")
        with open(path, "wb") as f:
            f.truncate(MIB)
        daemon = lib.subprocess.Popen(
            ["qemu-storage-daemon", "--blockdev", f"file,node-name=f,filename={path}", "--export",
             f"vhost-user-blk,id=e,node-name=f,writable=on,addr.type=unix,addr.path={sock}",
             "--pidfile", self.path("pid")], preexec_fn=lib.die_with_us)
        self.defer(daemon.wait)
        self.defer(daemon.kill)
        while not os.path.exists(sock):
            self.assertIsNone(daemon.poll())
        os.chmod(sock, 0o777)
        memory = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
        machine = Domain.machine
        Domain.machine = memory + machine
        self.defer(setattr, Domain, "machine", machine)
        vm = Domain(self, [Disk(self, "vda", MIB)], devices=self.disk(
            None, "vdb", "vhostuser", source=f"<source type='unix' path='{sock}'/>"))
        for options in ((), ("-o", "disk=vda")):
            mount = self.begin(vm, *options)
            self.assertEqual(mount.folders(), ["vda"])
            self.assertEqual("vdb (a vhost-user disk" in mount.output(), not options)
            mount.read("vda/disk.raw", "rb")
            self.fleecefs("--abort", mount.point)
            mount.check_gone()
        self.refused(vm, "-o", "disk=vdb", says="vdb cannot be backed up: it is a vhost-user disk")

    def test_transient(self):
        """libvirt refuses the whole backup where it is to have one: what is in its image is to be had
        when the VM is off."""
        path = disks.create(self.path("transient.qcow2"), MIB)
        disks.qemu_io(path, [f"write -q -P 9 0 {MIB}"])
        vm = Domain(self, [Disk(self, "vda", MIB)],
                    devices=self.disk(path, "vdb", driver="qcow2", rest="<transient/>"))
        mount = self.begin(vm)
        self.assertEqual(mount.folders(), ["vda"])
        self.assertIn("vdb (transient, of which libvirt makes no backup while the VM runs)",
                      mount.output())
        self.fleecefs("--abort", mount.point)
        mount.check_gone()
        self.refused(vm, "-o", "disk=vdb", says="disk vdb cannot be backed up: it is transient, .*; "
                                                "copy its image instead")
        vm.quit()
        mount = self.begin(vm)
        self.assertEqual(mount.read("vdb/disk.raw", "rb"), bytes([9]) * MIB)

    def test_slice(self):
        """The whole file is not the disk."""
        path = self.path("big.raw")
        with open(path, "wb") as f:
            f.write(b"\x11" * MIB + b"\x22" * MIB + b"\x33" * MIB)
        slices = f"<slices><slice type='storage' offset='{MIB}' size='{MIB}'/></slices>"
        vm = Domain(self, [Disk(self, "vda", MIB)], devices=self.disk(
            path, "vdb", source=f"<source file='{path}'>{slices}</source>"))
        mount = self.begin(vm)
        self.assertEqual(mount.read("vdb/disk.raw", "rb"), b"\x22" * MIB)
        self.fleecefs("--abort", mount.point)
        mount.check_gone()
        vm.quit()
        mount = self.begin(vm)
        self.assertEqual(mount.folders(), ["vda"])
        self.assertIn("vdb (a slice of a file, and the VM is shut off)", mount.output())

    def test_volume(self):
        """A volume of libvirt's storage, running and shut off."""
        pool = self.mkdir("pool")
        os.chmod(pool, 0o755)
        image = f"{pool}/volume.qcow2"
        disks.create(image, MIB)
        name = f"pool-{os.getpid()}"
        vm = Domain(self, [Disk(self, "vda", MIB)])
        vm.virsh("pool-create-as", name, "dir", "--target", pool)
        self.defer(vm.virsh, "pool-destroy", name)
        vm.quit()
        vm = Domain(self, [], devices=self.disk(
            None, "vda", "volume", "qcow2", source=f"<source pool='{name}' volume='volume.qcow2'/>",
            rest="<alias name='ua-vda'/>"))
        vm.disks["vda"] = Disk(self, "vda", MIB)
        chain = qmp_mount.Chain(self, "vda")
        for run, state in enumerate(("running", "running", "shut off")):
            if state == "shut off":
                vm.write("vda", 512 << 10, 65536, 9)
                vm.quit()
            else:
                vm.write("vda", run * 65536, 65536, run + 1)
            mount = self.begin(vm)
            self.assertEqual(mount.json("vda/info.json")["mode"], "incremental" if run else "full")
            backup = chain.copy(mount)
            chain.check(backup, bytes(vm.disks["vda"].model))
            chain.keep(backup)
            self.commit(mount)

    def test_external_snapshot(self):
        """libvirt's bitmap goes on in the overlay: what was written before is in the increment too,
        with the VM running or shut off."""
        for off in (False, True):
            vm = Domain(self, [Disk(self, "vda", MIB)])
            chain = qmp_mount.Chain(self, "vda")
            vm.write("vda", 0, 65536, 1)
            mount = self.begin(vm)
            chain.keep(chain.copy(mount))
            self.commit(mount)
            vm.write("vda", 256 << 10, 65536, 2)
            vm.virsh("snapshot-create-as", vm.name, "s1", "--disk-only", "--diskspec",
                     f"vda,file={self.path('overlay')}")
            self.defer(lib.attempt, "virsh", "--connect", vm.libvirtd.uri(), "snapshot-delete",
                       vm.uuid, "s1", "--metadata")
            vm.write("vda", 512 << 10, 65536, 3)
            if off:
                vm.quit()
            mount = self.begin(vm)
            info = mount.json("vda/info.json")
            self.assertEqual(info["mode"], "incremental")
            dirty = [c for c in info["contexts"] if c.get("bitmap") == "last"]
            self.assertEqual([c["dirty_bytes"] for c in dirty], [2 * 65536])
            backup = chain.copy(mount)
            chain.check(backup, bytes(vm.disks["vda"].model))
            self.fleecefs("--abort", mount.point)
            mount.check_gone()

    def test_connections(self):
        """The server of the VM has not as many as all disks might take."""
        vm = Domain(self, [Disk(self, f"vd{x}", MIB) for x in "abc"])
        mount = self.begin(vm, "-v", "-C", "64")
        self.assertIn("3 disks: 30 connections for each", mount.output())
        self.fleecefs("--abort", mount.point)
        mount.check_gone()
        mount = self.begin(vm, "-v", "-C", "30")
        self.assertNotIn("connections for each", mount.output())

    # What is left in images

    @staticmethod
    def bitmaps(vm, name="vda"):
        """The bitmaps of ours that the image of a VM that is shut off has."""
        info = json.loads(lib.run("qemu-img", "info", "--output=json", vm.disks[name].image))
        return [b["name"] for b in info["format-specific"]["data"].get("bitmaps", [])
                if b["name"].startswith("fleecefs")]

    def back_up(self, vm, *options):
        mount = self.begin(vm, *options)
        done = self.fleecefs("--commit", "--force", mount.point)
        self.assertEqual(done.returncode, 0, done.stderr)
        mount.check_gone()

    def forget(self, vm, *options):
        done = lib.attempt(*lib.FLEECEFS, "--forget", *options, vm.source(), env=vm.environment())
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout.splitlines()

    def test_replaced_disk(self):
        """A checkpoint one of whose disks was replaced goes from the others as well."""
        vm = Domain(self, [Disk(self, "vda", MIB), Disk(self, "vdb", MIB)])
        for _ in range(3):
            self.back_up(vm)
            vm.quit()
            self.assertEqual(self.bitmaps(vm), vm.checkpoints())
            self.assertEqual(len(vm.checkpoints()), 1)
            os.unlink(vm.disks["vdb"].image)
            disks.create(vm.disks["vdb"].image, MIB)
            vm.start()

    def test_forget(self):
        for off in (False, True):
            vm = Domain(self, [Disk(self, "vda", MIB), Disk(self, "vdb", MIB, kind="raw")])
            self.back_up(vm)
            self.back_up(vm, "--series=week")
            last, week = sorted(vm.checkpoints())
            if off:
                vm.quit()
            said = self.forget(vm, "--series=week")
            self.assertIn(f"deleted checkpoint {week}", said)
            self.assertEqual(vm.checkpoints(), [last])
            self.assertIn(f"deleted checkpoint {last}", self.forget(vm))
            self.assertEqual((vm.checkpoints(), os.listdir(vm.state)), ([], []))
            self.assertEqual(self.forget(vm), [])
            if not off:
                vm.quit()
            self.assertEqual(self.bitmaps(vm), [])
            vm.virsh("undefine", vm.name)

    def test_forget_strays(self):
        """libvirt forgets the checkpoints of a transient domain; the bitmaps stay in its images."""
        vm = Domain(self, [Disk(self, "vda", MIB)], transient=True)
        for lives in (1, 2):
            self.back_up(vm)
            vm.quit()
            self.assertEqual(len(self.bitmaps(vm)), lives)
            vm.start()
        strays = self.bitmaps_of_running(vm)
        said = self.forget(vm)
        self.assertEqual(sorted(said), [f"removed bitmap {b} of disk vda" for b in strays])
        self.assertEqual(vm.checkpoints(), [])
        vm.quit()
        self.assertEqual(self.bitmaps(vm), [])

    @staticmethod
    def bitmaps_of_running(vm):
        info = json.loads(lib.run("qemu-img", "info", "-U", "--output=json",
                                  vm.disks["vda"].image))
        return sorted(b["name"] for b in info["format-specific"]["data"]["bitmaps"])


if __name__ == "__main__":
    lib.main()
