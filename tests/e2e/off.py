#!/usr/bin/env python3
"""Images of VMs that are shut off: their restore points continue the chain of backups."""
import json
import os
import shutil

import disks
import lib
from qmp_mount import Chain
from vm import Disk, Vm

KIB = lib.KIB


class Off(lib.TestCase):
    def back_up(self, vm, chain, *options):
        """Backs up the running VM, checks, commits, and adds the result to CHAIN."""
        mount = self.mount("qmp:" + vm.monitor, env=vm.environment(),
                           options=["-o", f"scratch={self.dir}", *options])
        backup = chain.copy(mount)
        chain.check(backup, bytes(vm.disks[chain.name].model))
        chain.keep(backup)
        info = mount.json(f"{chain.name}/info.json")
        self.assertEqual(self.fleecefs("--commit", mount.point).returncode, 0)
        mount.check_gone()
        return info

    def test_increment_of_an_image(self):
        """Writes since the last backup of the running VM are an increment on it."""
        vm = Vm(self, [Disk(self, "vda", lib.MIB)])
        chain = Chain(self, "vda")
        vm.write("vda", 0, 512 * KIB, 1)
        point = self.back_up(vm, chain)["restore_point"]
        vm.write("vda", 256 * KIB, 64 * KIB, 2)
        vm.quit()
        model = bytes(vm.disks["vda"].model)
        bitmap = f"fleecefs.last.{point}"
        image = "vda=" + vm.disks["vda"].image
        with self.mount(image) as mount:
            info = mount.json("vda/info.json")
            self.assertEqual((info["mode"], info["base"]), ("incremental", point))
            self.assertNotIn("restore_point", info)
            self.assertEqual([(c["bitmap"], c["base"]) for c in info["contexts"] if "base" in c],
                             [(bitmap, point)])
            self.assertEqual(sorted({f.rpartition(".")[0] for f in os.listdir(mount / "vda/dirty")}),
                             [bitmap])
            increment = self.path("increment")
            lib.run("cp", mount / f"vda/dirty/{bitmap}.qcow2", increment)
        lib.run("qemu-img", "rebase", "-u", "-F", "qcow2", "-b", chain.images[-1], increment)
        self.assertEqual(disks.raw_bytes(increment, self.path("raw")), model)
        with self.mount(image, options=["--series=week"]) as mount:
            info = mount.json("vda/info.json")
            self.assertEqual((info["mode"], info["reason"]),
                             ("full", "there is no restore point of series 'week' in the image"))
            self.assertNotIn("base", info)
            self.assertIn("a full backup, because there is no restore point", mount.output())
        self.assert_refused("--series=week", "nbd://localhost", self.mkdir("mnt"), status=2,
                            says=["option series applies to VMs and their images"])

    def test_points_that_cannot_be_used(self):
        """They do not tell all that changed; fleecefs reports why."""
        vm = Vm(self, [Disk(self, "vda", 4 * lib.MIB)])
        vm.write("vda", 3 * lib.MIB, 64 * KIB, 1)
        point = self.back_up(vm, Chain(self, "vda"))["restore_point"]
        names = {name.partition(".")[0]: name for _, name in vm.bitmaps()}
        vm.quit()

        def resize(*sizes):
            return [("resize", "-q", "--shrink", "{}", size) for size in sizes]

        def bitmap(action, name):
            return ("bitmap", action, "{}", names[name])

        for commands, reason in (
                (resize(5 * lib.MIB), f"the disk's size changed since restore point {point}, to 5242880"),
                (resize(2 * lib.MIB), f"the disk's size changed since restore point {point}, to 2097152"),
                (resize(2 * lib.MIB, 4 * lib.MIB), f"the disk was shrunk since restore point {point}"),
                # As in an image of libvirt, which has only the points.
                ([bitmap("--remove", "fleecefs-disk"), bitmap("--remove", "fleecefs-check"),
                  *resize(5 * lib.MIB)], f"restore point {point} cannot be verified: libvirt made it")):
            with self.subTest(commands), self.part():
                image = self.path("vda.qcow2")
                shutil.copy(vm.disks["vda"].image, image)
                for command in commands:
                    lib.run("qemu-img", *(str(word).format(image) for word in command))
                with self.mount("vda=" + image) as mount:
                    info = mount.json("vda/info.json")
                    self.assertNotIn("base", info)
                    self.assertEqual(info["mode"], "full")
                    self.assertIn(reason, info["reason"])
                    self.assertIn("a full backup, because " + info["reason"], mount.output())

    def test_point_that_was_not_committed(self):
        vm = Vm(self, [Disk(self, "vda", lib.MIB)])
        vm.write("vda", 0, 512 * KIB, 1)
        mount = self.mount("qmp:" + vm.monitor, env=vm.environment(),
                           options=["-o", f"scratch={self.dir}"])
        vm.quit()
        mount.kill()
        self.assertIn("fleecefs.last.", lib.run("qemu-img", "info", vm.disks["vda"].image))
        with self.mount(vm.disks["vda"].image) as mount:
            self.assertNotIn("base", mount.json(mount.folders()[0] + "/info.json"))

    def test_keep(self):
        """Backups of a VM that is off do not push out the base of its next increment."""
        vm = Vm(self, [Disk(self, "vda", lib.MIB)])
        env = self.environment()
        for tool in "qcow2", "tar":
            to = self.mkdir(tool)
            for run, source in enumerate(("qmp:" + vm.monitor, *[vm.disks["vda"].image] * 3)):
                done = lib.attempt(f"{lib.TOP}/contrib/fleecefs-backup", "--keep=last=1", "-o",
                                   f"scratch={self.dir}", "--series=" + tool, tool, to,
                                   "web=" + source, env=env)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertIn("since" if run else "vda full", done.stderr)
                if run == 0:
                    vm.quit()
            self.assertEqual(len(os.listdir(to + "/web")), 2)
            vm.start()

    def layers(self, size=lib.MIB, top_size=lib.MIB):
        """Returns an overlay that continues one of its base image's bitmaps."""
        base, top = self.path("base.qcow2"), self.path("top.qcow2")
        disks.create(base, size, ["both", "below"])
        disks.qemu_io(base, [f"write -q -P 1 0 {64 * KIB}"])
        lib.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top,
                top_size)
        for bitmap in ("both", "above"):
            disks.add_bitmap(top, bitmap)
        disks.qemu_io(top, [f"write -q -P 2 {512 * KIB} {64 * KIB}"])
        return top

    def bitmaps(self, image):
        """Returns the dirty ranges of the bitmaps that a mount of IMAGE shows, and its output."""
        with self.mount(image) as mount:
            folder = mount / (mount.folders()[0] + "/dirty")
            found = {}
            for name in os.listdir(folder):
                if name.endswith(".json"):
                    with open(f"{folder}/{name}") as f:
                        found[name.removesuffix(".json")] = [
                            (e["start"], e["length"]) for e in json.load(f) if e["dirty"]]
            return found, mount.output()

    def test_bitmaps_of_a_chain(self):
        """The parts of a bitmap in consecutive images of a chain are merged."""
        top = self.layers()
        first, second = (0, 64 * KIB), (512 * KIB, 64 * KIB)
        self.assertEqual(self.bitmaps(top), ({"both": [first, second], "above": [second]}, ""))
        # An image without a part ends the chain.
        between = disks.create(self.path("between.qcow2"), backing=top)
        last = disks.create(self.path("last.qcow2"), backing=between, bitmaps=["both"])
        disks.qemu_io(last, [f"write -q -P 3 {256 * KIB} {64 * KIB}"])
        self.assertEqual(self.bitmaps(last), ({"both": [(256 * KIB, 64 * KIB)]}, ""))

    def test_chain_of_different_sizes(self):
        """A bitmap with inconsistent parts is not served."""
        found, said = self.bitmaps(self.layers(top_size=2 * lib.MIB))
        self.assertEqual(found, {"above": [(512 * KIB, 64 * KIB)]})
        self.assertRegex(said, 'bitmap "both" of .* the disk was resized after an external snapshot')


if __name__ == "__main__":
    lib.main()
