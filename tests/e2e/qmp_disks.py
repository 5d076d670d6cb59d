#!/usr/bin/env python3
"""Disks of a running VM that need a closer look: which are left out or refused, and which cannot be
backed up in increments."""
import os

import lib
from qmp_mount import Chain
from vm import Disk, Vm

KIB = lib.KIB


class QmpDisks(lib.TestCase):
    def begin(self, vm, *options):
        return self.mount("qmp:" + vm.monitor, env=vm.environment(),
                          options=["-o", f"scratch={self.dir}", *options])

    def commit(self, mount):
        done = self.fleecefs("--commit", mount.point)
        self.assertEqual(done.returncode, 0, done.stderr)
        mount.check_gone()

    def back_up(self, vm, chain, *options):
        """A committed backup, checked and kept; what info.json said."""
        mount = self.begin(vm, *options)
        backup = chain.copy(mount)
        chain.check(backup, bytes(vm.disks[chain.name].model))
        chain.keep(backup)
        info = mount.json(f"{chain.name}/info.json")
        self.commit(mount)
        return info

    def test_comma(self):
        """A folder with a comma in its name."""
        vm = Vm(self, [Disk(self, "vda", lib.MIB)])
        folder = self.path("with,comma")
        os.mkdir(folder)
        mount = self.mount("qmp:" + vm.monitor, env=vm.environment(),
                           options=["-o", "scratch=" + folder.replace(",", "\\,") + ",full"])
        self.assertIn("asked for", mount.json("vda/info.json")["reason"])
        self.assert_refused("-o", "scratch=" + folder, "qmp:" + vm.monitor, self.mkdir("other"),
                            status=2, says=["option 'comma' is not known"])

    def test_shrunk_and_grown(self):
        """What was cut off reads as zeros, which no bitmap says: a full backup follows."""
        for kind in ("qcow2", "raw"):
            for cut in (lib.MIB // 2, 512):
                vm = Vm(self, [Disk(self, "vda", lib.MIB, kind)])
                chain = Chain(self, "vda")
                vm.write("vda", 0, lib.MIB, 7)
                self.back_up(vm, chain)
                vm.write("vda", 0, 64 * KIB, 8)
                self.assertEqual(self.back_up(vm, chain)["mode"], "incremental")
                vm.qmp("block_resize", node_name="vda", size=lib.MIB - cut)
                vm.qmp("block_resize", node_name="vda", size=lib.MIB)
                vm.disks["vda"].model[lib.MIB - cut:] = bytes(cut)
                vm.write("vda", 64 * KIB, 64 * KIB, 9)
                # Also where the end is dirty again.
                vm.write("vda", lib.MIB - 512, 512, 9)
                info = self.back_up(vm, chain)
                self.assertEqual(info["mode"], "full")
                self.assertIn("made smaller since restore point", info["reason"])
                vm.write("vda", 0, 64 * KIB, 10)
                self.assertEqual(self.back_up(vm, chain)["mode"], "incremental")
                self.assertEqual(vm.leftovers(), [])
                vm.quit()

    def test_shrunk_and_grown_off(self):
        vm = Vm(self, [Disk(self, "vda", lib.MIB)])
        chain = Chain(self, "vda")
        vm.write("vda", 0, lib.MIB, 7)
        self.back_up(vm, chain)
        vm.quit()
        image = vm.disks["vda"].image
        lib.run("qemu-img", "resize", "-q", "--shrink", image, "512K")
        lib.run("qemu-img", "resize", "-q", image, "1M")
        vm.disks["vda"].model[512 * KIB:] = bytes(512 * KIB)
        with self.mount(image) as mount:
            info = mount.json(mount.folders()[0] + "/info.json")
            self.assertNotIn("base", info)
        vm.start()
        self.assertEqual(self.back_up(vm, chain)["mode"], "full")
        # One that was only stopped and started goes on.
        vm.quit()
        vm.start()
        vm.write("vda", 0, 64 * KIB, 10)
        self.assertEqual(self.back_up(vm, chain)["mode"], "incremental")

    def test_cleared(self):
        """A restore point that somebody cleared has lost what it knew: a full backup follows."""
        for all_of_them in (False, True):
            vm = Vm(self, [Disk(self, "vda", lib.MIB)])
            chain = Chain(self, "vda")
            vm.write("vda", 0, lib.MIB, 7)
            self.back_up(vm, chain)
            # Nothing is lost yet, and all that follows is recorded.
            self.clear(vm, "fleecefs.")
            vm.write("vda", 0, 64 * KIB, 8)
            self.assertEqual(self.back_up(vm, chain)["mode"], "incremental")
            vm.write("vda", 64 * KIB, 64 * KIB, 9)
            self.clear(vm, "fleecefs" if all_of_them else "fleecefs.")
            vm.write("vda", 0, 64 * KIB, 10)
            info = self.back_up(vm, chain)
            self.assertEqual(info["mode"], "full")
            if not all_of_them:
                self.assertRegex(info["reason"], "restore point .* was cleared")
            vm.write("vda", 0, 64 * KIB, 11)
            self.assertEqual(self.back_up(vm, chain)["mode"], "incremental")
            self.assertEqual(vm.leftovers(), [])
            vm.quit()

    def clear(self, vm, prefix):
        for node, name in vm.bitmaps():
            if name.startswith(prefix):
                vm.qmp("block-dirty-bitmap-clear", node=node, name=name)

    def test_cleared_off(self):
        vm = Vm(self, [Disk(self, "vda", lib.MIB)])
        chain = Chain(self, "vda")
        vm.write("vda", 0, lib.MIB, 7)
        self.back_up(vm, chain)
        vm.write("vda", 0, 64 * KIB, 8)
        (point,) = (name for _, name in vm.bitmaps() if name.startswith("fleecefs.last."))
        vm.quit()
        image = vm.disks["vda"].image
        with self.mount(image) as mount:
            info = mount.json(mount.folders()[0] + "/info.json")
            self.assertEqual(info["base"], point.rpartition(".")[2])
        lib.run("qemu-img", "bitmap", "--clear", image, point)
        with self.mount(image) as mount:
            info = mount.json(mount.folders()[0] + "/info.json")
            self.assertNotIn("base", info)
            self.assertRegex(info["reason"], "restore point .* was cleared")
        vm.start()
        info = self.back_up(vm, chain)
        self.assertEqual(info["mode"], "full")
        self.assertRegex(info["reason"], "restore point .* was cleared")

    def test_shared(self):
        """Refused, or by name in full; no restore point of it stays or is made."""
        node = "driver=qcow2,node-name=vdb,file.driver=file,file.filename="
        image = Disk(self, "vdb", lib.MIB).image
        vm = Vm(self, [Disk(self, "vda", lib.MIB)],
                ["-blockdev", node + image, "-device", "virtio-blk-pci,drive=vdb,share-rw=on"])
        self.assert_refused("-o", f"scratch={self.dir}", "qmp:" + vm.monitor, self.mkdir("mnt"),
                            says=["disk vdb is shared with other VMs (share-rw=on)", "-o disk="])
        vm.qmp("block-dirty-bitmap-add", node="vdb", name="fleecefs.last.20261121T033659Z-100000")
        for mode in ("full", "incremental"):
            mount = self.begin(vm, "-o", "disk=vda:vdb")
            self.assertIn("disk vdb is shared with other VMs: unless they are shut off",
                          mount.output())
            info = mount.json("vdb/info.json")
            self.assertEqual(info["mode"], "full")
            self.assertNotIn("restore_point", info)
            self.assertNotIn("base", info)
            self.assertEqual(mount.json("vda/info.json")["mode"], mode)
            done = self.fleecefs("--commit", "--force", mount.point)
            self.assertEqual(done.returncode, 0, done.stderr)
            mount.check_gone()
            self.assertEqual([n for n in vm.bitmaps() if n[0] == "vdb"], [])
            self.assertEqual(vm.leftovers(), [])

    def test_left_out(self):
        """What cannot be backed up is named."""
        other = Disk(self, "vdb", lib.MIB).image
        sock, data = self.path("vhost.sock"), self.path("data")
        with open(data, "wb") as f:
            f.truncate(lib.MIB)
        lib.require("qemu-storage-daemon")
        daemon = lib.subprocess.Popen(
            ["qemu-storage-daemon", "--blockdev", f"file,node-name=f,filename={data}", "--export",
             f"vhost-user-blk,id=e,node-name=f,writable=on,addr.type=unix,addr.path={sock}"],
            preexec_fn=lib.die_with_us)
        self.defer(daemon.wait)
        self.defer(daemon.kill)
        while not os.path.exists(sock):
            self.assertIsNone(daemon.poll())
        vm = Vm(self, [Disk(self, "vda", lib.MIB)], [
            "-object", "memory-backend-memfd,id=mem,size=64M,share=on", "-numa", "node,memdev=mem",
            "-chardev", f"socket,id=c,path={sock}",
            "-device", "vhost-user-blk-pci,chardev=c,id=vu0",
            "-drive", f"file={other},if=none,readonly=on,format=qcow2,id=vdb",
            "-device", "virtio-blk-pci,drive=vdb",
            "-drive", f"file={data},if=none,format=raw,media=cdrom,id=cd,file.locking=off",
            "-device", "ide-cd,drive=cd"])
        mount = self.begin(vm)
        self.assertEqual(mount.folders(), ["vda"])
        self.assertIn("left out: vdb (read-only), cd (removable), vu0 (a vhost-user disk, which "
                      "another process has)", mount.output())
        self.fleecefs("--abort", mount.point)
        mount.check_gone()
        for name, why in (("vdb", "read-only"), ("vu0", "a vhost-user disk")):
            self.assert_refused("-o", f"scratch={self.dir},disk={name}", "qmp:" + vm.monitor,
                                self.mkdir("mnt"), says=[f"{name} cannot be backed up: it is {why}"])
        mount = self.begin(vm, "-o", "disk=vda")
        self.assertNotIn("left out", mount.output())


if __name__ == "__main__":
    lib.main()
