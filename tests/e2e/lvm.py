#!/usr/bin/env python3
"""Logical volumes as files, on physical volumes made by lvm2's tools, which do not need the kernel's
device mapper for that."""
import os
import re
import struct

import disks
import lib

SIZE = 96 * lib.MIB
EXTENT = lib.MIB


class Lvm(lib.TestCase):
    def setUp(self):
        super().setUp()
        lib.require("lvm", "losetup", "sfdisk", "mkfs.ext4", "debugfs")
        if os.geteuid() != 0:
            self.skipTest("losetup needs root")

    def loop(self, path, offset=0, length=None):
        """Returns a loop device for a part of the file at PATH."""
        limit = [] if length is None else ["--sizelimit", length]
        done = lib.attempt("losetup", "--find", "--show", "--offset", offset, *limit, path)
        if done.returncode != 0:
            self.skipTest("no loop devices: " + done.stderr)
        device = done.stdout.strip()
        self.defer(lib.attempt, "losetup", "--detach", device)
        self.devices.append(device)
        return device

    def lvm(self, command, *args):
        """Runs an lvm2 command that sees only our devices and does not use the device mapper."""
        accepted = ",".join(f'"a|^{d}$|"' for d in self.devices)
        config = (f'devices {{ dir="/dev" scan="/dev" use_devicesfile=0 filter=[{accepted},"r|.*|"] }} '
                  "global { activation=0 } backup { backup=0 archive=0 }")
        return lib.run("lvm", command, "--config", config, *args,
                       env={**os.environ, "LVM_SUPPRESS_FD_WARNINGS": "1",
                            "LVM_SYSTEM_DIR": self.mkdir("lvm")})

    def create(self, name, *options, size, group="vg0"):
        self.lvm("lvcreate", "-an", "-Zn", "-Wn", "-y", "-n", name, "-L", size, *options, group)

    def segments(self, group, starts):
        """Returns the layout of each volume according to lvm2: {name: [(disk offset, length)...]}.
        STARTS: offset of each device on the disk."""
        pe_start = {}
        for line in self.lvm("pvs", "--noheadings", "--units", "b", "-o", "pv_name,pe_start").splitlines():
            device, offset = line.split()
            pe_start[device] = starts[device] + int(offset[:-1])
        found = {}
        for line in self.lvm("lvs", "--noheadings", "--segments", "--units", "b", "--separator", ";",
                             "-o", "lv_name,seg_start,seg_size,stripesize,seg_pe_ranges",
                             "-O", "lv_name,seg_start", group).splitlines():
            name, start, size, stripe, ranges = line.strip().split(";")
            size, stripe = int(size[:-1]), int(stripe[:-1])
            areas = [(pe_start[device] + int(first) * EXTENT) for device, first in
                     re.findall(r"(\S+?):(\d+)-\d+", ranges)]
            stripe = stripe if len(areas) > 1 else size
            parts = found.setdefault(name, [])
            for row in range(size // stripe // len(areas)):
                parts += [(area + row * stripe, stripe) for area in areas]
        return found

    def fill(self, path, segments):
        """Writes an ext4 or random data to each volume; returns the contents by name."""
        contents = {}
        with open(path, "r+b") as f:
            for name, parts in segments.items():
                size = sum(length for _, length in parts)
                if name == "root":
                    folder, image = self.mkdir("root"), self.path("ext4")
                    with open(folder + "/file", "wb") as g:
                        g.write(b"here I am\n" * 10000)
                    lib.run("mkfs.ext4", "-q", "-L", "the root", "-d", folder, image, f"{size >> 10}K")
                    with open(image, "rb") as g:
                        contents[name] = g.read()
                else:
                    half = self.rng.randbytes(size // 2)
                    contents[name] = half + bytes(size - len(half))
                at = 0
                for offset, length in parts:
                    f.seek(offset)
                    f.write(contents[name][at:at + length])
                    at += length
        lib.run("fallocate", "--dig-holes", path)
        return contents

    def by_parts(self, disk, parts):
        """Reads a volume from the disk by its PARTS in info.json."""
        for part in parts:
            for at in range(0, part["length"], part["stripe"]):
                row, column = divmod(at // part["stripe"], len(part["areas"]))
                disk.seek(part["areas"][column] + row * part["stripe"])
                yield disk.read(min(part["stripe"], part["length"] - at))

    def check(self, mount, contents):
        (export,) = mount.folders()
        self.assertEqual(sorted(os.listdir(mount / f"{export}/lv")),
                         sorted(f"vg0-{n.replace('-', '--')}.raw" for n in contents))
        info = mount.json(f"{export}/info.json")
        told = {v["name"]: v for v in info["logical_volumes"]}
        for name, data in contents.items():
            file = f"{export}/lv/vg0-{name.replace('-', '--')}.raw"
            self.assertTrue(mount.read(file, "rb") == data, name)
            self.assertEqual((told[name]["group"], told[name]["size"]), ("vg0", len(data)))
            self.assertEqual(os.getxattr(mount / file, "user.fleecefs.uuid").decode(),
                             told[name]["uuid"])
            with open(mount / f"{export}/disk.raw", "rb") as f:
                self.assertTrue(b"".join(self.by_parts(f, told[name]["parts"])) == data, name)
            with open(mount / file, "rb") as f:
                extents = disks.seek_walk(f.fileno())
            self.assertEqual(sum(e - s for s, e in extents), os.stat(mount / file).st_blocks * 512)
            self.assertLess(sum(e - s for s, e in extents), len(data))
        root = told["root"]["content"]
        self.assertEqual((root["type"], root["label"]), ("ext4", "the root"))
        self.assertEqual(os.getxattr(mount / f"{export}/lv/vg0-root.raw",
                                     "user.fleecefs.content_type"), b"ext4")
        self.assertIn("here I am\nhere", lib.run("debugfs", "-R", "cat /file",
                                                 mount / f"{export}/lv/vg0-root.raw"))
        return info

    def test_partitions(self):
        """A group of two physical volumes in partitions: linear, in several parts, and striped."""
        disk = self.path("disk.raw")
        self.devices = []
        lib.run("truncate", "-s", SIZE, disk)
        lib.run("sfdisk", "-q", disk, input="label: gpt\nsize=10M\nsize=40M, type=lvm\nsize=40M, type=lvm\n")
        starts = {self.loop(disk, 11 * lib.MIB, 40 * lib.MIB): 11 * lib.MIB,
                  self.loop(disk, 51 * lib.MIB, 40 * lib.MIB): 51 * lib.MIB}
        self.lvm("pvcreate", "-ff", "-y", *self.devices)
        self.lvm("vgcreate", "-s", f"{EXTENT}b", "vg0", *self.devices)
        self.create("root", size="8M")
        self.create("data-1", "-i2", "-I64k", size="12M")
        self.create("more", "-i2", "-I4k", size="4M")
        self.lvm("lvextend", "-y", "-L", "+9M", "vg0/root")
        contents = self.fill(disk, self.segments("vg0", starts))
        with self.mount(disk, options=["--format=raw"]) as mount:
            info = self.check(mount, contents)
            self.assertEqual([p.get("content", {}).get("type") for p in info["partitions"]],
                             [None, "LVM2_member", "LVM2_member"])
            self.assertNotIn("logical_volumes_left_out", info)
        # Without the second physical volume, volumes on the first remain.
        with open(disk, "r+b") as f:
            f.seek(51 * lib.MIB)
            f.write(bytes(lib.MIB))
        with self.mount(disk, options=["--format=raw"]) as mount:
            (export,) = mount.folders()
            self.assertEqual(os.listdir(mount / f"{export}/lv"), ["vg0-root.raw"])
            self.assertEqual(mount.json(f"{export}/info.json")["logical_volumes_left_out"],
                             [f"vg0/{n}: a part of it is on another disk" for n in ("data-1", "more")])

    def test_whole_disk(self):
        """Metadata that wraps around the end of a small circular area."""
        disk = self.path("disk.raw")
        self.devices = []
        lib.run("truncate", "-s", SIZE, disk)
        starts = {self.loop(disk): 0}
        self.lvm("pvcreate", "-ff", "-y", "--metadatasize", "32k", "--dataalignment", "4k",
                 *self.devices)
        self.lvm("vgcreate", "-s", f"{EXTENT}b", "vg0", *self.devices)
        self.create("root", size="16M")
        for i in range(5):
            self.create(f"v{i}", size="1M")
        contents = self.fill(disk, self.segments("vg0", starts))
        for i in range(30):
            self.lvm("vgchange", "--addtag", f"tag{i}", "vg0")
            # The area's header has its length at 32, then the offset and length of the text.
            with open(disk, "rb") as f:
                f.seek(4096 + 32)
                area, offset, length = struct.unpack("<QQQ", f.read(24))
            if offset + length > area:
                break
        self.assertGreater(offset + length, area)
        with self.mount(disk, options=["--format=raw"]) as mount:
            info = self.check(mount, contents)
        self.assertEqual(info["content"]["type"], "LVM2_member")
        # Damaged metadata is reported, and only its volumes are missing.
        with open(disk, "r+b") as f:
            f.seek(4096 + offset + 10)
            f.write(b"#")
        with self.mount(disk, options=["--format=raw"]) as mount:
            (export,) = mount.folders()
            self.assertFalse(os.path.exists(mount / f"{export}/lv"))
            self.assertEqual(mount.json(f"{export}/info.json")["logical_volumes_left_out"],
                             ["the physical volume at byte 0: the checksum of its metadata does not match"])

    def test_contents_of_partitions(self):
        disk = self.path("disk.raw")
        lib.run("truncate", "-s", SIZE, disk)
        lib.run("sfdisk", "-q", disk, input="size=10M\nsize=20M\nsize=20M\n")
        lib.run("mkfs.ext4", "-q", "-L", "a\033[2Jb", "-E", f"offset={lib.MIB}", disk, "10M")
        with self.mount(disk, options=["--format=raw"]) as mount:
            (export,) = mount.folders()
            parts = mount.json(f"{export}/info.json")["partitions"]
            self.assertEqual(parts[0]["content"]["type"], "ext4")
            self.assertEqual(parts[0]["content"]["label"], "a?[2Jb")
            self.assertNotIn("content", parts[1])
        plain = self.path("plain.raw")
        lib.run("mkfs.ext4", "-q", plain, "10M")
        with self.mount(plain, options=["--format=raw"]) as mount:
            (export,) = mount.folders()
            info = mount.json(f"{export}/info.json")
            self.assertEqual(info["content"]["type"], "ext4")
            self.assertNotIn("partitions", info)


if __name__ == "__main__":
    lib.main()
