#!/usr/bin/env python3
"""Unusual disks of a running VM: which are left out or refused, and which cannot be backed up in
increments."""
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
        """Backs up, checks, commits, and adds the result to CHAIN; returns info.json."""
        mount = self.begin(vm, *options)
        backup = chain.copy(mount)
        chain.check(backup, bytes(vm.disks[chain.name].model))
        chain.keep(backup)
        info = mount.json(f"{chain.name}/info.json")
        self.commit(mount)
        return info

    def test_comma(self):
        """The scratch directory has a comma in its name."""
        vm = Vm(self, [Disk(self, "vda", lib.MIB)])
        folder = self.path("with,comma")
        os.mkdir(folder)
        mount = self.mount("qmp:" + vm.monitor, env=vm.environment(),
                           options=["-o", "scratch=" + folder.replace(",", "\\,") + ",full"])
        self.assertIn("requested", mount.json("vda/info.json")["reason"])
        self.assert_refused("-o", "scratch=" + folder, "qmp:" + vm.monitor, self.mkdir("other"),
                            status=2, says=["unknown option 'comma'"])

    def scratch_has(self, mount, pattern):
        """Whether the mount's only scratch file, which is unlinked, contains PATTERN."""
        folder = f"/proc/{mount.pid}/fd"
        (file,) = [f"{folder}/{fd}" for fd in os.listdir(folder)
                   if os.readlink(f"{folder}/{fd}").startswith(self.dir)
                   and os.readlink(f"{folder}/{fd}").endswith(" (deleted)")]
        with open(file, "rb") as f:
            return pattern in f.read()

    def secrets(self, vm):
        return [o["name"] for o in vm.qmp("qom-list", path="/objects") if o["name"].startswith("fleecefs") and o["name"] != "fleecefs-claim"]

    def test_encrypted_scratch(self):
        """Overwritten blocks are stored in plain text unless encrypted."""
        vm = Vm(self, [Disk(self, "vda", lib.MIB)])
        vm.qmp("object-add", qom_type="secret", id="others", data="x") # must be kept
        chain = Chain(self, "vda")
        pattern, before = bytes([7]) * 4096, None
        for options, clear in ((), True), (("-o", "scratch_encrypt"), False):
            vm.write("vda", 0, lib.MIB, 7)
            before = bytes(vm.disks["vda"].model)
            mount = self.begin(vm, *options)
            vm.write("vda", 64 * KIB, 512 * KIB, 8)
            self.assertEqual(self.scratch_has(mount, pattern), clear)
            self.assertEqual(self.secrets(vm), [] if clear else ["fleecefs-0-secret"])
            backup = chain.copy(mount)
            chain.check(backup, before)
            chain.keep(backup)
            self.commit(mount)
            self.assertEqual((self.secrets(vm), vm.leftovers()), ([], []))
        mount = self.begin(vm, "--scratch_encrypt")
        self.assertEqual(self.secrets(vm), ["fleecefs-0-secret"])
        mount.kill()
        lib.run("umount", "-l", mount.point)
        lib.run(*lib.FLEECEFS, "--recover", "qmp:" + vm.monitor,
                env={**os.environ, **vm.environment()})
        self.assertEqual((self.secrets(vm), vm.leftovers()), ([], []))
        self.assertEqual(vm.qmp("object-del", id="others"), {})

    def test_shrunk_and_grown(self):
        """The truncated range reads as zeros, which bitmaps do not record: a full backup follows."""
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
                # Even if the end is dirty again.
                vm.write("vda", lib.MIB - 512, 512, 9)
                info = self.back_up(vm, chain)
                self.assertEqual(info["mode"], "full")
                self.assertIn("shrunk since restore point", info["reason"])
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
        # After a plain restart, the chain continues.
        vm.quit()
        vm.start()
        vm.write("vda", 0, 64 * KIB, 10)
        self.assertEqual(self.back_up(vm, chain)["mode"], "incremental")

    def test_cleared(self):
        """A restore point whose bitmap was cleared is incomplete: a full backup follows."""
        for all_of_them in (False, True):
            vm = Vm(self, [Disk(self, "vda", lib.MIB)])
            chain = Chain(self, "vda")
            vm.write("vda", 0, lib.MIB, 7)
            self.back_up(vm, chain)
            # No write is lost yet, and later ones are recorded.
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
        """Refused, or backed up in full if requested by name; has no restore points."""
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
        """Disks that cannot be backed up are reported."""
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
                      "belongs to another process)", mount.output())
        self.assertEqual(mount.json(".fleecefs/status.json")["missing_disks"], ["vu0"])
        self.fleecefs("--abort", mount.point)
        mount.check_gone()
        for name, why in (("vdb", "read-only"), ("vu0", "a vhost-user disk")):
            self.assert_refused("-o", f"scratch={self.dir},disk={name}", "qmp:" + vm.monitor,
                                self.mkdir("mnt"), says=[f"cannot back up disk {name}: it is {why}"])
        mount = self.begin(vm, "-o", "disk=vda")
        self.assertNotIn("left out", mount.output())
        self.assertNotIn("missing_disks", mount.json(".fleecefs/status.json"))

    def test_qemu_logs_no_errors(self):
        """Each connection to its NBD server is closed as the protocol requires."""
        vm = Vm(self, [Disk(self, "vda", lib.MIB)])
        for command in ("--abort", "--commit"):
            mount = self.begin(vm)
            mount.read("vda/disk.raw", "rb")
            self.assertEqual(self.fleecefs(command, mount.point).returncode, 0)
            mount.check_gone()
        self.assertNotRegex(vm.said(), "(?i)negotiation|broken pipe|socket|end-of-file")

    def test_read_only(self):
        """Read-only disks, on request: full each time, and without restore points."""
        seed, other = os.urandom(lib.MIB), Disk(self, "vdb", lib.MIB)
        iso = self.path("seed.iso")
        with open(iso, "wb") as f:
            f.write(seed)
        lib.run("qemu-io", "-f", "qcow2", "-c", "write -q -P 7 0 64k", other.image)
        vm = Vm(self, [Disk(self, "vda", lib.MIB)], [
            "-drive", f"file={other.image},if=none,readonly=on,format=qcow2,id=vdb",
            "-device", "virtio-blk-pci,drive=vdb",
            "-drive", f"file={iso},if=none,format=raw,media=cdrom,readonly=on,id=cd",
            "-device", "ide-cd,drive=cd,bus=ide.0", "-device", "ide-cd,id=empty,bus=ide.1"])
        self.assert_refused("-o", f"scratch={self.dir},disk=cd", "qmp:" + vm.monitor,
                            self.mkdir("mnt"), says=["cannot back up disk cd", "or give -o read_only"])
        for mode in ("full", "incremental"):
            vm.write("vda", 0, 64 * KIB, 9)
            mount = self.begin(vm, "-o", "read_only")
            self.assertEqual(mount.folders(), ["cd", "vda", "vdb"])
            self.assertNotIn("left out", mount.output())
            self.assertTrue(mount.read("cd/disk.raw", "rb") == seed)
            self.assertTrue(mount.read("vdb/disk.raw", "rb") == bytes([7]) * 65536 +
                            bytes(lib.MIB - 65536))
            for name in ("cd", "vdb"):
                info = mount.json(name + "/info.json")
                self.assertEqual((info["mode"], info["reason"]),
                                 ("full", "it is read-only: it has no restore points"))
                self.assertNotIn("restore_point", info)
            self.assertEqual(mount.json("vda/info.json")["mode"], mode)
            mount.read("vda/" + ("disk.raw" if mode == "full" else "dirty/last.raw"), "rb")
            self.commit(mount)
            self.assertEqual(vm.leftovers(), [])
            self.assertEqual({node for node, _ in vm.bitmaps()}, {"vda"})
        mount = self.begin(vm, "-o", "read_only,disk=cd")
        self.assertEqual(mount.folders(), ["cd"])


if __name__ == "__main__":
    lib.main()
