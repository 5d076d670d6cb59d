#!/usr/bin/env python3
"""Partitions as files: tables made by sgdisk, sfdisk and fdisk, and malicious tables."""
import concurrent.futures
import errno
import json
import os
import re
import struct
import threading
import time
import uuid
import zlib

import disks
import lib
from nbdserver import READ, Export, NbdServer
from vm import Disk, Vm

SIZE = 96 * lib.MIB
LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"
# Bytes read to find a table.
HEAD = 64 * lib.KIB
# Seconds: an unresponsive server delays a listing by five, and nothing else.
SOON = 30


def gpt(size, entries, count=128, sector=512, entry_size=128):
    """Returns the head of a disk with a GPT of ENTRIES (first, last, name), with valid checksums."""
    table = b"".join(struct.pack("<16s16sQQQ72s", uuid.UUID(LINUX).bytes_le, uuid.uuid4().bytes_le,
                                 first, last, 0, name.encode("utf-16-le"))
                     for first, last, name in entries)
    # Missing entries are zeros, up to the number in the header.
    check = zlib.crc32(table)
    for _ in range(max(0, count * entry_size - len(table)) >> 20):
        check = zlib.crc32(bytes(lib.MIB), check)
    check = zlib.crc32(bytes(max(0, count * entry_size - len(table)) & 0xfffff), check)
    last = size // sector - 1

    def header(crc):
        return struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, crc, 0, 1, last, 6,
                           last - 34, uuid.uuid5(uuid.NAMESPACE_DNS, "x").bytes_le, 2, count,
                           entry_size, check)
    protective = bytearray(sector)
    protective[446:462] = struct.pack("<8BII", 0, 0, 2, 0, 0xee, 255, 255, 255, 1,
                                      min(last, 0xffffffff))
    protective[510:512] = b"\x55\xaa"
    return bytes(protective) + header(zlib.crc32(header(0))).ljust(sector, b"\0") + table


class Partitions(lib.TestCase):
    def setUp(self):
        super().setUp()
        lib.require("sgdisk", "sfdisk", "fdisk", "mkfs.ext4", "debugfs")
        self.file = self.rng.randbytes(300_000)

    def file_system(self):
        """Creates an ext4 that contains a file."""
        folder, image = self.mkdir("root"), self.path("ext4")
        with open(folder + "/file", "wb") as f:
            f.write(self.file)
        lib.run("mkfs.ext4", "-q", "-d", folder, image, "20M")
        with open(image, "rb") as f:
            return f.read()

    def gpt_disk(self, path):
        """Creates a raw disk with file systems in partitions 1 and 5; returns their contents."""
        lib.run("truncate", "-s", SIZE, path)
        lib.run("sgdisk", "-n", "1:2048:+20M", "-c", "1:root \u00e4 \u202efs", "-n", "3:0:+8M",
                "-n", "5:0:+20M", "-t", "3:8200", path)
        parts = {1: self.file_system(), 3: bytes(8 * lib.MIB), 5: self.file_system()}
        start = lib.MIB
        with open(path, "r+b") as f:
            for data in parts.values():
                f.seek(start)
                f.write(data)
                start += len(data)
        return parts

    def check(self, mount, export, parts):
        """Checks that the partition files match PARTS (number to bytes) and disk.raw in every way."""
        self.assertEqual(sorted(n for n in os.listdir(mount / export) if n.startswith("part")),
                         sorted(f"part{n}.raw" for n in parts))
        disk, whole = mount.read(export + "/disk.raw", "rb"), os.stat(mount / export + "/disk.raw")
        told = {p["number"]: p for p in mount.json(export + "/info.json")["partitions"]}
        self.assertEqual(sorted(told), sorted(parts))
        for number, data in parts.items():
            name = f"{mount / export}/part{number}.raw"
            st, fd = os.stat(name), os.open(name, os.O_RDONLY)
            start = int(os.getxattr(name, "user.fleecefs.start"))
            self.assertEqual(start, told[number]["start"])
            self.assertEqual(int(os.getxattr(name, "user.fleecefs.length")), len(data))
            self.assertEqual(os.getxattr(name, "user.fleecefs.type").decode(), told[number]["type"])
            self.assertEqual(int(os.getxattr(name, "user.fleecefs.disk_size")), whole.st_size)
            self.assertEqual((st.st_size, st.st_mode, st.st_nlink, st.st_mtime_ns, st.st_ctime_ns),
                             (len(data), 0o100444, 1, whole.st_mtime_ns, whole.st_ctime_ns))
            self.assertEqual(mount.read(f"{export}/part{number}.raw", "rb") == data, True)
            self.assertEqual(disk[start:start + len(data)] == data, True)
            extents = disks.seek_walk(fd)
            self.assertEqual(sum(e - s for s, e in extents), 512 * st.st_blocks)
            self.assertEqual(data.count(0) if not extents else 0, len(data) if not extents else 0)
            os.close(fd)

    def check_file(self, mount, name):
        """debugfs finds the file in the partition."""
        copy = self.path("file")
        lib.run("debugfs", "-R", f"dump /file {copy}", mount / name)
        with open(copy, "rb") as f:
            self.assertEqual(f.read() == self.file, True)

    def test_gpt(self):
        raw = self.path("disk.raw")
        parts = self.gpt_disk(raw)
        image = os.path.join(self.dir, "vm.qcow2")
        lib.run("qemu-img", "convert", "-O", "qcow2", raw, image)
        with self.mount(image) as mount:
            # Even before the folder was listed.
            self.check_file(mount, "vm/part5.raw")
            self.check(mount, "vm", parts)
            name = mount / "vm/part1.raw"
            self.assertEqual(os.getxattr(name, "user.fleecefs.type").decode(), LINUX)
            self.assertEqual(os.getxattr(name, "user.fleecefs.name").decode(), "root \u00e4 ?fs")
            self.assertRegex(os.getxattr(name, "user.fleecefs.uuid").decode(), r"^[0-9a-f-]{36}$")
            info = mount.json("vm/info.json")
            self.assertEqual(info["partition_table"], "gpt")
            self.assertNotIn("partitions_left_out", info)
            inodes = [os.stat(mount / f"vm/part{n}.raw").st_ino for n in parts]
        self.assertEqual(len(set(inodes)), len(parts))
        with self.mount(image) as mount:
            self.assertEqual([os.stat(mount / f"vm/part{n}.raw").st_ino for n in parts], inodes)
            self.assert_errno(errno.ENOENT, os.stat, mount / "vm/part2.raw")
            self.assert_errno(errno.ENOENT, os.stat, mount / "vm/part1.qcow2")

    def test_what_was_read_counts(self):
        raw = self.path("disk.raw")
        parts = self.gpt_disk(raw)
        with self.mount(self.nbdkit("file", raw).uri) as mount:
            self.check(mount, "default", parts)
        with self.mount(self.nbdkit("file", raw).uri) as mount:
            os.listdir(mount / "default")
            (disk,) = mount.json(".fleecefs/status.json")["exports"]
            self.assertEqual(disk["data_covered_bytes"], 0)
            data = 512 * os.stat(mount / "default/part1.raw").st_blocks
            mount.read("default/part1.raw", "rb")
            (disk,) = mount.json(".fleecefs/status.json")["exports"]
            self.assertEqual(disk["data_covered_bytes"], data)

    def test_qmp(self):
        disk = Disk(self, "vda", size=SIZE)
        raw = self.path("disk.raw")
        parts = self.gpt_disk(raw)
        lib.run("qemu-img", "convert", "-O", "qcow2", raw, disk.image)
        vm = Vm(self, [disk])
        mount = self.mount("qmp:" + vm.monitor, env=vm.environment(),
                           options=["-o", "scratch=" + self.dir])
        vm.write("vda", lib.MIB, lib.MIB, 7)  # not part of the snapshot
        self.check(mount, "vda", parts)
        self.check_file(mount, "vda/part1.raw")
        self.end(mount, "--commit", "--force")
        # The next one is an increment.
        mount = self.mount("qmp:" + vm.monitor, env=vm.environment(),
                           options=["-o", "scratch=" + self.dir])
        self.assertEqual(mount.json("vda/info.json")["mode"], "incremental")
        parts[1] = b"\7" * lib.MIB + parts[1][lib.MIB:]
        self.check(mount, "vda", parts)
        self.end(mount, "--abort")

    def end(self, mount, *command):
        done = self.fleecefs(*command, mount.point)
        self.assertEqual(done.returncode, 0, done.stderr)
        mount.check_gone()

    def mbr_disk(self, script, size=SIZE):
        path = self.path("disk.raw")
        lib.run("truncate", "-s", size, path)
        lib.run("sfdisk", "--quiet", path, input="label: dos\n" + script)
        told = lib.run("sfdisk", "--json", path)
        return path, {int(re.search(r"(\d+)$", p["node"].removeprefix(path))[1]):
                      (p["start"] * 512, p["size"] * 512, p["type"])
                      for p in json.loads(told)["partitiontable"]["partitions"]}

    def test_logical_partitions(self):
        """Their chain spans the whole disk."""
        logical = "".join("size=900M, type=83\n" for _ in range(20))
        raw, told = self.mbr_disk("size=10M, type=83, bootable\nsize=1M, type=c\ntype=5\n" +
                                  logical, size=20 * lib.GIB)
        with open(raw, "r+b") as f:
            for number, (start, length, _) in told.items():
                if number != 3:
                    f.seek(start)
                    f.write(b"partition %d" % number)
                    f.seek(start + length - 5)
                    f.write(b"%5d" % number)
        with self.mount(raw) as mount:
            (export,) = mount.folders()
            del told[3]  # the extended one only contains the others
            info = mount.json(export + "/info.json")
            self.assertEqual({p["number"]: (p["start"], p["length"], p["type"][2:])
                              for p in info["partitions"]},
                             {n: (s, l, t.rjust(2, "0")) for n, (s, l, t) in told.items()})
            self.assertGreater(len(told), 20)
            for number, (_, length, _) in told.items():
                with open(mount / f"{export}/part{number}.raw", "rb") as f:
                    self.assertEqual(f.read(20).rstrip(b"\0"), b"partition %d" % number)
                    f.seek(length - 5)
                    self.assertEqual(f.read(), b"%5d" % number)

    def test_sectors_of_4096_bytes(self):
        raw = self.path("disk.raw")
        lib.run("truncate", "-s", SIZE, raw)
        lib.attempt("fdisk", "--sector-size", "4096", raw, input="g\nn\n1\n\n+20M\nn\n2\n\n\nw\n")
        data = self.file_system()
        with open(raw, "r+b") as f:
            f.seek(lib.MIB)
            f.write(data)
        with self.mount(raw) as mount:
            (export,) = mount.folders()
            self.assertEqual(mount.json(export + "/info.json")["partition_table"], "gpt")
            self.assertEqual(mount.read(export + "/part1.raw", "rb") == data, True)
            self.assertTrue(os.path.exists(mount / (export + "/part2.raw")))

    def test_no_table(self):
        ext4, fat = self.path("ext4"), self.path("fat")
        with open(ext4, "wb") as f:
            f.write(self.file_system())
        # Its boot sector has an MBR's signature.
        lib.run("mkfs.fat", "-C", fat, 20_000)
        for image in (ext4, fat):
            with self.mount(image) as mount:
                (export,) = mount.folders()
                self.assertEqual([n for n in os.listdir(mount / export) if "part" in n], [])
                self.assertNotIn("partition_table", mount.json(export + "/info.json"))
                self.assert_errno(errno.ENOENT, os.stat, mount / (export + "/part1.raw"))

    # Servers

    def server(self, head, size=SIZE, **more):
        """Serves a disk that is zeros after HEAD."""
        export = Export(size, lambda o, n: head[o:o + n].ljust(n, b"\0"), **more)
        return NbdServer(self, {"": export}), export

    def test_what_is_asked_of_the_server(self):
        head = gpt(SIZE, [(2048, 4095, "a")])
        server, export = self.server(head)
        export.contexts = {"base:allocation": [(0, 20480, 0), (20480, SIZE, 3)]}
        server.exports.update({f"more{i}": export for i in range(200)})
        with self.mount(server.uri()) as mount:
            self.assertEqual(len(mount.folders()), 201)
            for folder in mount.folders():
                os.stat(mount / folder)
            self.assertEqual(server.ranges(READ), [])
            self.assertIn("part1.raw", os.listdir(mount / "default"))
            os.listdir(mount / "default")
            mount.json("default/info.json")
            self.assertEqual(server.ranges(READ), [(0, 20480)])
            # Known zeros have no table.
            export.contexts = {"base:allocation": [(0, SIZE, 3)]}
            self.assertNotIn("part1.raw", os.listdir(mount / "more1"))
            self.assertEqual(server.ranges(READ), [(0, 20480)])

    def test_reads_that_are_refused(self):
        server, export = self.server(gpt(SIZE, [(2048, 4095, "a")]))

        def refuse(offset, length):
            if offset < HEAD:
                raise OSError(errno.EIO, "no")
        export.on_read = refuse
        with self.mount(server.uri()) as mount:
            self.assertNotIn("part1.raw", os.listdir(mount / "default"))
            self.assert_errno(errno.ENOENT, os.stat, mount / "default/part1.raw")
            self.assertIn("cannot be read", mount.json("default/info.json")["partitions_unknown"])
            with open(mount / "default/disk.raw", "rb") as f:
                f.seek(lib.MIB)
                self.assertEqual(f.read(4096), bytes(4096))

    def test_a_server_that_does_not_answer(self):
        server, export = self.server(gpt(SIZE, [(2048, 4095, "a")]),
                                     contexts={"base:allocation": [(0, SIZE, 0)]})
        release = threading.Event()
        self.defer(release.set)
        export.on_read = lambda offset, length: None if release.wait() else None
        with self.mount(server.uri()) as mount, concurrent.futures.ThreadPoolExecutor(2) as pool:
            began = time.monotonic()
            listing = pool.submit(os.listdir, mount / "default")
            looking = pool.submit(os.path.exists, mount / "default/part1.raw")
            # The others do not wait.
            self.assertEqual(os.stat(mount / "default/disk.raw").st_size, SIZE)
            self.assertEqual(mount.json("default/disk.json")[0]["length"], SIZE)
            self.assertIn("disk.raw", listing.result(SOON))
            self.assertFalse(looking.result(SOON))
            self.assertIn("timed out", mount.json("default/info.json")["partitions_unknown"])
            self.assertLess(time.monotonic() - began, SOON)
            # A late reply does not help.
            release.set()
            with open(mount / "default/disk.raw", "rb") as f:
                f.read(HEAD)
            self.assertNotIn("part1.raw", os.listdir(mount / "default"))

    def test_tables_made_to_do_harm(self):
        sectors = SIZE // 512
        # The maximum of libblkid: 2 GiB of empty entries, whose memory is not
        # touched, unless malloc is configured to fill it.
        os.environ.pop("MALLOC_PERTURB_", None)
        many = (1 << 24) - 1
        cases = {
            "overlapping": (gpt(SIZE, [(2048, 4095, "a"), (4000, 5000, "b"), (4096, 4096, "c")]),
                            [1, 3], 1),
            "no partitions": (gpt(SIZE, []), [], 0),
            "many entries": (gpt(SIZE, [(2048, 4095, "a")], count=many), None, 0),
            "beyond the end": (gpt(SIZE, [(2048, sectors * 2, "a"), (4096, 4096, "c")]), [2], None),
            "short": (gpt(SIZE, [(2048, 4095, "a")])[:700], None, 0),
        }
        for what, (head, expected, left_out) in cases.items():
            with self.subTest(what):
                server, _ = self.server(head, 64 * lib.GIB if what == "many entries" else SIZE)
                with self.mount(server.uri()) as mount:
                    info = mount.json("default/info.json")
                    if expected is None:
                        self.assertNotIn("partition_table", info)
                    else:
                        self.assertEqual([p["number"] for p in info["partitions"]], expected)
                    if left_out is not None:
                        self.assertEqual(len(info.get("partitions_left_out", [])), left_out)
                    self.assertEqual(sum(n.startswith("part") for n in os.listdir(mount / "default")),
                                     len(expected or []))
                    with open(f"/proc/{mount.pid}/status") as f:
                        peak = int(re.search(r"VmHWM:\s+(\d+) kB", f.read())[1]) * lib.KIB
                    if not lib.SANITIZED:
                        self.assertLess(peak, 100 * lib.MIB)

    def test_names_of_partitions(self):
        name = "a\n\033[2J\u202e\x9b'\"\\"
        server, _ = self.server(gpt(SIZE, [(2048, 4095, name), (4096, 4100, "")]))
        with self.mount(server.uri()) as mount:
            path = mount / "default/part1.raw"
            self.assertEqual(os.getxattr(path, "user.fleecefs.name").decode(), "a ?[2J??'\"\\")
            self.assert_errno(errno.ENODATA, os.getxattr, mount / "default/part2.raw",
                              "user.fleecefs.name")
            self.assertEqual(mount.json("default/info.json")["partitions"][0]["name"],
                             "a ?[2J??'\"\\")

    def test_random_heads(self):
        """A real table with some bytes changed: all partitions found lie on the disk."""
        raw, _ = self.mbr_disk("size=10M, type=83\nsize=40M, type=5\nsize=5M\nsize=5M\n")
        with open(raw, "rb") as f:
            mbr = f.read(HEAD)
        exports = {}
        for i in range(100):
            head = bytearray(self.rng.choice([mbr, gpt(SIZE, [(2048, 4095, "a")])]))
            for _ in range(self.rng.randint(1, 5)):
                head[self.rng.choice([self.rng.randrange(446, 510), self.rng.randrange(1100)])] = \
                    self.rng.randrange(256)
            exports[f"e{i}"] = Export(SIZE, lambda o, n, head=bytes(head):
                                      head[o:o + n].ljust(n, b"\0"))
        with self.mount(NbdServer(self, exports).uri()) as mount:
            for name in exports:
                info = mount.json(name + "/info.json")
                self.assertNotIn("partitions_unknown", info)
                for part in info.get("partitions", []):
                    path = mount / f"{name}/part{part['number']}.raw"
                    self.assertEqual(os.stat(path).st_size, part["length"])
                    self.assertLessEqual(part["start"] + part["length"], SIZE)


if __name__ == "__main__":
    lib.main()
