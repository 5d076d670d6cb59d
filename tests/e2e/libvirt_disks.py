#!/usr/bin/env python3
"""Disks of domains that are not ordinary image files: what can be backed up, and the messages
about the rest."""
import json
import os
import threading

import disks
import lib
import qmp_mount
from libvirtd import Domain, Proxy
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
        """Refused, or backed up in full if requested by name; never gets a restore point."""
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

    def test_read_only(self):
        """Read-only disks, on request: full each time, from their images, whether the VM runs or is shut
        off. Empty drives are left out."""
        seed, image = os.urandom(MIB), disks.create(self.path("vdb.qcow2"), MIB)
        iso = self.path("seed.iso")
        with open(iso, "wb") as f:
            f.write(seed)
        disks.qemu_io(image, ["write -q -P 7 0 64k"])
        vm = Domain(self, [Disk(self, "vda", MIB)], devices=self.disk(
            image, "vdb", driver="qcow2", rest="<readonly/>") + self.disk(
                iso, "sdb").replace("device='disk'", "device='cdrom'").replace("virtio", "sata"))
        self.refused(vm, "-o", "disk=sdb", says="cannot back up disk sdb: .*, or give -o read_only")
        self.refused(vm, "-o", "disk=sdb,read_only", says="all of these disks are read-only")
        for mode in ("full", "incremental", "off"):
            if mode == "off":
                vm.quit()
            else:
                vm.io("vda", "write -q -P 9 0 64k")
            mount = self.begin(vm, "-o", "read_only")
            self.assertEqual(mount.folders(), ["sdb", "vda", "vdb"])
            self.assertIn("left out: sda (empty)", mount.output())
            self.assertTrue(mount.read("sdb/disk.raw", "rb") == seed)
            self.assertTrue(mount.read("vdb/disk.raw", "rb") == bytes([7]) * 65536 +
                            bytes(MIB - 65536))
            self.assertEqual(mount.read("vda/disk.raw", "rb")[:65536], bytes([9]) * 65536)
            for name in ("sdb", "vdb"):
                info = mount.json(name + "/info.json")
                self.assertEqual((info["mode"], info["reason"]),
                                 ("full", "it is read-only: it has no restore points"))
                self.assertNotIn("restore_point", info)
            if mode == "incremental":
                self.assertEqual(mount.json("vda/info.json")["mode"], mode)
                mount.read("vda/dirty/last.raw", "rb")
            self.commit(mount)
            self.assertEqual(vm.leftovers(), [])

    def test_old_qcow2(self):
        """An image of format version 2 is backed up in full, beside another in increments."""
        path = self.path("old.qcow2")
        disks.create(path, MIB, options=["-o", "compat=0.10"])
        disks.qemu_io(path, [f"write -q -P 7 0 {MIB // 2}"])
        vm = Domain(self, [Disk(self, "vda", MIB)], devices=self.disk(path, "vdb", driver="qcow2"))
        for run in ("full", "incremental"):
            mount = self.begin(vm)
            self.assertEqual(mount.json("vda/info.json")["mode"], run)
            info = mount.json("vdb/info.json")
            self.assertEqual(info["mode"], "full")
            self.assertIn("compat=0.10) cannot store restore points; while the VM is shut off, qemu-img amend",
                          info["reason"])
            self.assertEqual(mount.read("vdb/disk.raw", "rb"),
                             b"\x07" * (MIB // 2) + bytes(MIB // 2))
            name = "dirty/last.raw" if run == "incremental" else "disk.raw"
            mount.read("vda/" + name, "rb")
            self.commit(mount)

    @staticmethod
    def secrets(vm):
        return vm.virsh("secret-list").splitlines()[2:]

    def test_encrypted_scratch(self):
        """Overwritten blocks are stored in plain text unless encrypted; only QEMU has the key."""
        vm = Domain(self, [Disk(self, "vda", MIB), Disk(self, "vdb", MIB, kind="raw")])
        pattern = bytes([7]) * 4096
        for options, clear in ((), True), (("-o", "scratch_encrypt"), False):
            for name in vm.disks:
                vm.write(name, 0, MIB, 7)
            mount = self.begin(vm, *options)
            for name in vm.disks:
                vm.write(name, 65536, MIB // 2, 8)
            (folder,) = os.listdir(vm.scratch)
            for name in vm.disks:
                with open(f"{vm.scratch}/{folder}/{name}", "rb") as f:
                    self.assertEqual(pattern in f.read(), clear)
            self.assertEqual((self.secrets(vm), "encryption" in vm.job()), ([], not clear))
            for name in vm.disks:
                self.assertTrue(mount.read(f"{name}/disk.raw", "rb") == bytes([7]) * MIB)
            if not clear:
                self.assertEqual(mount.json("vda/info.json")["mode"], "incremental")
                self.assertTrue(mount.read("vda/dirty/last.raw", "rb") == bytes([7]) * MIB)
            self.commit(mount)
            self.assertEqual(vm.leftovers(), [])
        mount = self.begin(vm, "--scratch_encrypt")
        mount.kill()
        lib.run("umount", "-l", mount.point)
        self.assertIn("ended a backup job", vm.recover())
        self.assertEqual((vm.recover(), vm.leftovers(), self.secrets(vm)), ("", [], []))

    def test_encrypted_scratch_interrupted(self):
        """The daemon is killed when libvirt has the key but QEMU does not."""
        vm = Domain(self, [Disk(self, "vda", MIB)])
        began, never = threading.Event(), threading.Event()

        def on_call(procedure):
            if procedure != Proxy.BEGIN_BACKUP:
                return Proxy.PASS
            began.set()
            return never

        proxy = Proxy(self, vm.libvirtd, on_call)
        self.defer(never.set)  # else closing the proxy would wait for it
        process = lib.subprocess.Popen(
            [*lib.FLEECEFS, "-f", "-o", f"scratch={vm.scratch},scratch_encrypt",
             vm.source(proxy.path), self.mkdir("mnt")], env=vm.environment(),
            stdin=lib.subprocess.DEVNULL, preexec_fn=lib.die_with_us)
        self.defer(process.wait)
        self.defer(process.kill)
        self.assertTrue(began.wait(lib.PATIENCE))
        (secret,) = self.secrets(vm)
        uuid = secret.split()[0]
        self.assertIn(vm.scratch + "/fleecefs-", secret)
        done = lib.attempt("virsh", "--connect", vm.libvirtd.uri(), "secret-get-value", uuid)
        self.assertIn("secret is private", done.stderr)
        process.kill()
        process.wait()
        vm.recover()
        self.assertEqual((self.secrets(vm), vm.leftovers()), ([], []))

    def test_vhost_user(self):
        """QEMU has no block node for such a disk: it is reported and left out."""
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
            self.assertEqual(mount.json(".fleecefs/status.json").get("missing_disks"),
                             None if options else ["vdb"])
            mount.read("vda/disk.raw", "rb")
            self.fleecefs("--abort", mount.point)
            mount.check_gone()
        self.refused(vm, "-o", "disk=vdb", says="cannot back up disk vdb: it is a vhost-user disk")

    def test_transient(self):
        """libvirt refuses a backup that includes one; its image can be mounted while the VM is shut
        off."""
        path = disks.create(self.path("transient.qcow2"), MIB)
        disks.qemu_io(path, [f"write -q -P 9 0 {MIB}"])
        vm = Domain(self, [Disk(self, "vda", MIB)],
                    devices=self.disk(path, "vdb", driver="qcow2", rest="<transient/>"))
        mount = self.begin(vm)
        self.assertEqual(mount.folders(), ["vda"])
        self.assertIn("vdb (transient, which libvirt does not back up while the VM runs)",
                      mount.output())
        self.fleecefs("--abort", mount.point)
        mount.check_gone()
        self.refused(vm, "-o", "disk=vdb", says="cannot back up disk vdb: it is transient, .*; "
                                                "copy its image instead")
        vm.quit()
        mount = self.begin(vm)
        self.assertEqual(mount.read("vdb/disk.raw", "rb"), bytes([9]) * MIB)

    def test_slice(self):
        """The disk is only a part of the file."""
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
        """A volume of a storage pool, with the VM running and shut off."""
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
        """libvirt's bitmap continues in the overlay: the increment includes earlier writes as well,
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
        """All disks share the connections that the VM's NBD server accepts."""
        vm = Domain(self, [Disk(self, f"vd{x}", MIB) for x in "abc"])
        mount = self.begin(vm, "-v", "-C", "64")
        self.assertIn("3 disks: 30 connections for each", mount.output())
        self.fleecefs("--abort", mount.point)
        mount.check_gone()
        mount = self.begin(vm, "-v", "-C", "30")
        self.assertNotIn("connections for each", mount.output())

    # Leftovers in images

    @staticmethod
    def bitmaps(vm, name="vda"):
        """Returns fleecefs's bitmaps in the image of a VM that is shut off."""
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
        nothing = f"fleecefs: {vm.source()} has no restore point\n"
        self.assertEqual((done.returncode, done.stderr), (0, "" if done.stdout else nothing))
        return done.stdout.splitlines()

    def test_replaced_disk(self):
        """If a disk of a checkpoint was replaced, the checkpoint is removed from the other disks too."""
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
        """libvirt loses the checkpoints of a transient domain; the bitmaps remain in its images."""
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
