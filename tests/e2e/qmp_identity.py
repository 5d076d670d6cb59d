#!/usr/bin/env python3
"""Identity of disks that trade places, are renamed, move to another VM, are copied, replaced or rolled
back: each continues its own chain or gets a full backup, and every backup restores the disk's
contents at that time."""
import os
import shutil

import lib
from chains import Chains
from vm import Disk, Vm

SIZE = 4 * lib.MIB


class Identity(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.a, self.b = Disk(self, "vda", SIZE), Disk(self, "vdb", SIZE)
        self.chains = Chains(self)

    def start(self, *disks, **kwargs):
        vm = Vm(self, disks, **kwargs)
        # Each disk has different contents.
        for number, disk in enumerate(disks):
            if not any(disk.model):
                vm.write(disk.name, 0, lib.MIB, 17 + number)
        return vm

    def check_increment(self, before, after):
        """The backup AFTER is an increment on the backup BEFORE, of the same disk."""
        self.assertEqual((after.get("base"), after["disk_id"]),
                         (before["restore_point"], before["disk_id"]))

    def check_full(self, after, reason):
        self.assertNotIn("base", after)
        self.assertRegex(after["reason"], reason)

    def write(self, vm, byte):
        """Writes BYTE to every disk, each at a different offset."""
        for number, name in enumerate(vm.disks):
            vm.write(name, (number + 1) * 65536 * byte % SIZE, 65536, byte)

    def test_disks_trade_places(self):
        vm = self.start(self.a, self.b)
        first = self.chains.back_up(vm)
        self.assertEqual(len({d["disk_id"] for d in first.values()}), 2)
        self.assertEqual(len({d["restore_point"] for d in first.values()}), 2)
        self.write(vm, 2)
        vm.quit()
        self.a.name, self.b.name = "vdb", "vda"
        vm = self.start(self.b, self.a)
        self.write(vm, 3)
        second = self.chains.back_up(vm)
        self.check_increment(first["vda"], second["vdb"])
        self.check_increment(first["vdb"], second["vda"])
        self.write(vm, 4)
        third = self.chains.back_up(vm)
        self.check_increment(second["vda"], third["vda"])

    def test_a_disk_by_another_name(self):
        vm = self.start(self.a)
        first = self.chains.back_up(vm)
        self.write(vm, 2)
        vm.quit()
        self.a.name, self.a.style = "root", "drive"
        vm = self.start(self.a)
        second = self.chains.back_up(vm)
        self.check_increment(first["vda"], second["root"])

    def test_a_disk_of_another_vm(self):
        vm, other = self.start(self.a, arguments=["-name", "one"]), self.start(self.b)
        first, theirs = self.chains.back_up(vm), self.chains.back_up(other)
        self.assertNotEqual(first["vda"]["restore_point"], theirs["vdb"]["restore_point"])
        self.write(vm, 2)
        vm.quit()
        other.quit()
        vm = self.start(self.b, self.a, arguments=["-name", "two"])
        self.write(vm, 3)
        second = self.chains.back_up(vm)
        self.check_increment(first["vda"], second["vda"])
        self.check_increment(theirs["vdb"], second["vdb"])

    def test_a_copy_beside_its_original(self):
        vm = self.start(self.a)
        first = self.chains.back_up(vm)
        self.write(vm, 2)
        vm.quit()
        shutil.copy(self.a.image, self.b.image)
        self.b.model[:] = self.a.model
        vm = self.start(self.a, self.b)
        vm.write("vdb", SIZE // 2, 65536, 3)
        second = self.chains.back_up(vm)
        for name in "vda", "vdb":
            self.check_full(second[name], f"the same restore point {first['vda']['restore_point']}")
        self.write(vm, 4)
        third = self.chains.back_up(vm)
        for name in "vda", "vdb":
            self.check_increment(second[name], third[name])

    def test_an_image_is_replaced(self):
        vm = self.start(self.a)
        first = self.chains.back_up(vm)
        vm.quit()
        shutil.copy(self.a.image, kept := self.path("kept"))
        lib.run("qemu-img", "create", "-q", "-f", "qcow2", self.a.image, SIZE)
        old, self.a.model = self.a.model, bytearray(SIZE)
        vm = self.start(self.a)
        self.check_full(self.chains.back_up(vm)["vda"], "no restore point")
        vm.quit()
        # Puts the original back.
        shutil.copy(kept, self.a.image)
        self.a.model = old
        vm = self.start(self.a)
        self.write(vm, 5)
        self.check_increment(first["vda"], self.chains.back_up(vm)["vda"])

    def test_storage_is_rolled_back(self):
        vm = self.start(self.a)
        self.chains.back_up(vm)
        self.write(vm, 2)
        second = self.chains.back_up(vm)
        self.write(vm, 3)
        vm.quit()
        shutil.copy(self.a.image, kept := self.path("kept"))
        model = bytes(self.a.model)
        vm = self.start(self.a)
        self.write(vm, 4)
        self.chains.back_up(vm)
        self.chains.back_up(vm)
        vm.quit()
        shutil.copy(kept, self.a.image)
        self.a.model[:] = model
        vm = self.start(self.a)
        self.write(vm, 5)
        fifth = self.chains.back_up(vm)
        self.check_increment(second["vda"], fifth["vda"])
        self.write(vm, 6)
        self.check_increment(fifth["vda"], self.chains.back_up(vm)["vda"])

    def write_below(self, image, byte):
        """Writes BYTE to IMAGE, the backing image of the first disk."""
        lib.run("qemu-io", "-f", "qcow2", "-c", f"write -P {byte} 2M 64k", image)
        self.a.model[2 * lib.MIB:2 * lib.MIB + 65536] = bytes([byte]) * 65536

    def check_image(self, before, reason=None):
        """The image of the first disk, while it is off, continues BEFORE unless there is a REASON."""
        with self.mount(self.a.image, options=["-o", "format=qcow2"]) as mount:
            info = mount.json(os.path.dirname(mount.files()[0]).split("/dirty")[0] + "/info.json")
        if reason is None:
            self.check_increment(before, info)
        else:
            self.check_full(info, reason)

    def test_backing_image(self):
        """No bitmap of an overlay records that its backing image was written to or replaced."""
        bases, changed = [self.path("base.qcow2") for _ in range(3)], "the backing image changed"
        shutil.move(self.a.image, bases[0])
        self.write_below(bases[0], 5)
        lib.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", bases[0], self.a.image)
        vm = self.start(self.a)
        self.write(vm, 2)
        first = self.chains.back_up(vm)["vda"]
        vm.quit()
        # Renamed.
        shutil.move(bases[0], bases[1])
        lib.run("qemu-img", "rebase", "-u", "-F", "qcow2", "-b", bases[1], self.a.image)
        self.check_image(first)
        vm.start()
        second = self.chains.back_up(vm)["vda"]
        self.check_increment(first, second)
        vm.quit()
        # Written to.
        self.write_below(bases[1], 6)
        self.check_image(second, changed)
        vm.start()
        third = self.chains.back_up(vm)["vda"]
        self.check_full(third, changed)
        vm.quit()
        # Replaced.
        shutil.copy(bases[1], bases[2])
        self.write_below(bases[2], 7)
        self.check_image(third)
        lib.run("qemu-img", "rebase", "-u", "-F", "qcow2", "-b", bases[2], self.a.image)
        self.check_image(third, changed)
        vm.start()
        fourth = self.chains.back_up(vm)["vda"]
        self.check_full(fourth, changed)
        self.write(vm, 3)
        self.check_increment(fourth, self.chains.back_up(vm)["vda"])

    def test_bitmaps_in_memory(self):
        """Bitmaps of a raw disk are bound to its node, device and file."""
        raw, other = Disk(self, "vdr", SIZE, kind="raw"), Disk(self, "vdo", SIZE, kind="raw")
        vm = self.start(self.a, raw)
        first = self.chains.back_up(vm)
        self.write(vm, 2)
        second = self.chains.back_up(vm)
        self.check_increment(first["vdr"], second["vdr"])
        # The node remains, with another file below.
        vm.qmp("blockdev-add", driver="file", filename=other.image, **{"node-name": "other"})
        vm.qmp("blockdev-reopen", options=[{"driver": "raw", "node-name": "vdr", "file": "other",
                                            "discard": "unmap"}])
        vm.disks["vdr"].model = other.model
        self.write(vm, 3)
        third = self.chains.back_up(vm)
        self.check_full(third["vdr"], "made for another device, node or file")
        self.check_increment(second["vda"], third["vda"])
        self.write(vm, 4)
        self.check_increment(third["vdr"], self.chains.back_up(vm)["vdr"])

    def rename_point(self, vm, node, old, new):
        """Renames a restore point, as if the backup had been taken at another time."""
        name = f"fleecefs.last.{old}"
        vm.qmp("transaction", actions=[
            {"type": "block-dirty-bitmap-add",
             "data": {"node": node, "name": f"fleecefs.last.{new}", "persistent": True}},
            {"type": "block-dirty-bitmap-merge",
             "data": {"node": node, "target": f"fleecefs.last.{new}", "bitmaps": [name]}},
            {"type": "block-dirty-bitmap-remove", "data": {"node": node, "name": name}}])

    def test_a_clock_that_was_ahead(self):
        vm = self.start(self.a)
        said = self.chains.back_up(vm)["vda"]
        ahead = "20991231T235959Z-0123456789abcdef"
        self.rename_point(vm, "vda", said["restore_point"], ahead)
        key = said["restore_point"], said["disk_id"]
        self.chains.kept[ahead, said["disk_id"]] = self.chains.kept[key]
        self.write(vm, 2)
        second = self.chains.back_up(vm)["vda"]
        self.assertEqual(second["base"], ahead)
        for byte in 3, 4:
            self.write(vm, byte)
            third = self.chains.back_up(vm)["vda"]
            self.check_increment(second, third)
            second = third
        self.assertEqual(vm.points(), {"vda": ["fleecefs.last." + third["restore_point"]]})

    def old_point(self, vm, *nodes):
        """Creates a restore point as an earlier version did."""
        old = f"20260101T000000Z-{SIZE:x}"
        for node in nodes:
            vm.qmp("block-dirty-bitmap-add", node=node, name=f"fleecefs.last.{old}",
                   persistent=True)
        return old

    def test_points_of_earlier_versions(self):
        vm = self.start(self.a, self.b)
        old = self.old_point(vm, "vda")
        held = bytes(self.a.model)
        self.write(vm, 2)
        snapshot = vm.begin()
        self.assertEqual(snapshot.disks["vda"]["base"], old)
        self.assertTrue(snapshot.backup("vda", held) == bytes(self.a.model))
        snapshot.finish("abort")
        # If two disks have it, it is unknown which was backed up.
        self.old_point(vm, "vdb")
        for said in self.chains.back_up(vm).values():
            self.check_full(said, "an earlier version")
        self.write(vm, 3)
        for said in self.chains.back_up(vm).values():
            self.assertIn("base", said)

    def test_two_series(self):
        vm = self.start(self.a)
        days = [self.chains.back_up(vm, series="day")]
        week = self.chains.back_up(vm, series="week")
        self.assertNotEqual(days[0]["vda"]["disk_id"], week["vda"]["disk_id"])
        for byte in 2, 3:
            self.write(vm, byte)
            days.append(self.chains.back_up(vm, series="day"))
            self.check_increment(days[-2]["vda"], days[-1]["vda"])
        self.check_increment(week["vda"], self.chains.back_up(vm, series="week")["vda"])

    def test_a_full_backup_that_is_aborted(self):
        """The chain remains as it was."""
        vm = self.start(self.a)
        first = self.chains.back_up(vm)
        self.chains.back_up(vm, "--full", commit=False)
        self.write(vm, 2)
        self.check_increment(first["vda"], self.chains.back_up(vm)["vda"])
        second = self.chains.back_up(vm, "--full")
        self.write(vm, 3)
        self.check_increment(second["vda"], self.chains.back_up(vm)["vda"])


    def test_an_overlay_on_what_was_not_committed(self):
        """The uncommitted point cannot be removed; it is ignored until the overlay is gone."""
        guest = ["-uuid", "6b2c0f3e-59a4-4f0e-9a53-0e6a1f1c7b11"]
        vm = self.start(self.a, arguments=guest)
        first = self.chains.back_up(vm)
        self.write(vm, 2)
        vm.begin().kill()
        vm.quit()
        image, self.a.image = self.a.image, self.path("overlay")
        lib.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image,
                self.a.image)
        model = bytes(self.a.model)
        vm = self.start(self.a, arguments=guest)
        self.write(vm, 3)
        vm.begin().finish("abort")
        vm.quit()
        self.a.image, self.a.model = image, bytearray(model)
        vm = self.start(self.a, arguments=guest)
        self.write(vm, 4)
        self.check_increment(first["vda"], self.chains.back_up(vm)["vda"])


if __name__ == "__main__":
    lib.main()
