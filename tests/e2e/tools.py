#!/usr/bin/env python3
"""Stock tools on the tree: copies are correct, in time proportional to the data."""
import filecmp
import os
import subprocess
import time

import disks
import lib


class Tools(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.image = disks.create(os.path.join(self.dir, "vm.qcow2"), bitmaps=["b"])
        disks.scribble(self.image, self.rng, 30)
        self.out = self.mkdir("out")
        os.mkdir(self.dir + "/point")

    def assert_copied(self, mount, folder, *, holes=False):
        """Asserts that FOLDER has identical copies of the export's raw files; HOLES: equally sparse."""
        for name in ("disk.raw", "dirty/b.raw"):
            original, copy = mount / ("vm/" + name), os.path.join(folder, name)
            self.assertTrue(filecmp.cmp(original, copy, shallow=False), name)
            if holes:
                self.assertLessEqual(os.stat(copy).st_blocks, os.stat(original).st_blocks + 256)
            self.assertEqual(os.stat(copy).st_mtime_ns // 10**9,
                             os.stat(original).st_mtime_ns // 10**9)

    def test_tar(self):
        with self.mount(self.image) as mount:
            archive = self.path("a.tar")
            lib.run("tar", "-C", mount.point, "-cSf", archive, "vm")
            self.assertLess(os.stat(archive).st_size, 100 * lib.MIB)
            lib.run("tar", "-C", self.out, "-xSf", archive)
            self.assert_copied(mount, self.out + "/vm", holes=True)

    def test_generated_files_do_not_change_while_open(self):
        """tar and rsync fail if a file changes its size or its times while they read it.

        Not with status.json, which --list of other tests opens at any time."""
        with self.mount(self.image) as mount:
            with open(mount / ".fleecefs/metrics", "rb") as f:
                before = os.fstat(f.fileno())
                lib.run("cat", mount / "vm/disk.raw", stdout=subprocess.DEVNULL)
                self.assertEqual(os.fstat(f.fileno()), before)
                self.assertEqual(os.stat(f.name), before)
                content = f.read()
            self.assertEqual(len(content), before.st_size)
            lib.run("tar", "-C", mount.point, "-cSf", self.path("a.tar"), ".fleecefs/metrics", "vm")
            with open(mount / ".fleecefs/metrics", "rb") as f:
                after = os.fstat(f.fileno())
                self.assertNotEqual(f.read(), content)
            self.assertGreater(after.st_mtime_ns, before.st_mtime_ns)

    def test_tar_incremental_skips_unchanged_files(self):
        listed, archive = self.path("list"), self.path("a.tar")
        # Files older than the previous run are skipped.
        os.utime(self.image, (1e9, 1e9))
        sizes = []
        for _ in range(2):
            with self.mount(self.image) as mount:
                lib.run("tar", "-C", mount.point, "--no-check-device", "-g", listed,
                        "--exclude=info.json", "-cSf", archive, "vm")
            sizes.append(os.stat(archive).st_size)
        self.assertLess(sizes[1], 100 * lib.KIB)
        self.assertGreater(sizes[0], sizes[1])

    def test_bsdtar(self):
        lib.require("bsdtar")
        with self.mount(self.image) as mount:
            archive = self.path("a.tar")
            lib.run("bsdtar", "-C", mount.point, "-cf", archive, "vm")
            lib.run("bsdtar", "-C", self.out, "-xf", archive)
            self.assert_copied(mount, self.out + "/vm", holes=True)

    def test_cp(self):
        with self.mount(self.image) as mount:
            for how in ("auto", "always"):
                copy = os.path.join(self.out, how)
                lib.run("cp", "-a", "--sparse=" + how, mount / "vm", copy)
                self.assert_copied(mount, copy, holes=True)

    def test_rsync(self):
        lib.require("rsync")
        with self.mount(self.image) as mount:
            lib.run("rsync", "-aS", mount / "vm", self.out)
            self.assert_copied(mount, self.out + "/vm")
        with self.mount(self.image) as mount:
            again = lib.run("rsync", "-aS", "--itemize-changes", "--dry-run", mount / "vm",
                            self.out)
            self.assertNotIn(".raw", again)

    def test_borg(self):
        lib.require("borg")
        base = self.mkdir("borg")
        environment = {**os.environ, "BORG_BASE_DIR": base}
        repository = base + "/repository"
        lib.run("borg", "init", "--encryption=none", repository, env=environment)
        for archive in ("first", "second"):
            with self.mount(self.image, point=self.dir + "/point") as mount:
                said = lib.run("borg", "create", "--list", "--sparse",
                               "--chunker-params", "fixed,4194304", "--files-cache",
                               "ctime,size,inode", f"{repository}::{archive}", "vm",
                               cwd=mount.point, env=environment,
                               stderr=subprocess.STDOUT)
        self.assertRegex(said, r"(?m)^U vm/disk\.raw$")
        lib.run("borg", "extract", "--sparse", repository + "::second", cwd=self.out,
                env=environment)
        with self.mount(self.image) as mount:
            self.assert_copied(mount, self.out + "/vm")

    def test_restic(self):
        lib.require("restic")
        environment = {**os.environ, "RESTIC_PASSWORD": "x", "RESTIC_REPOSITORY": self.dir + "/r",
                       "RESTIC_CACHE_DIR": self.mkdir("cache")}
        lib.run("restic", "init", env=environment)
        for _ in range(2):
            with self.mount(self.image, point=self.dir + "/point") as mount:
                said = lib.run("restic", "backup", "-v", "-v", mount / "vm", env=environment)
        self.assertRegex(said, r"unchanged .*/vm/disk\.raw")
        lib.run("restic", "restore", "latest", "--target", self.out, env=environment)
        with self.mount(self.image) as mount:
            self.assert_copied(mount, self.out + self.dir + "/point/vm")

    def test_qemu_img(self):
        with self.mount(self.image) as mount:
            lib.run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", mount / "vm/disk.raw",
                    self.image)

    def test_find_and_du(self):
        with self.mount(self.image) as mount:
            data = sum(os.stat(mount / f).st_blocks for f in mount.files()) * 512
            whole = os.stat(mount / "vm/disk.raw").st_blocks * 512
            for folder, expected in (("vm", data + whole), ("vm/split", whole)):
                du = lib.run("du", "-sB1", mount / folder).split()[0]
                self.assertEqual(int(du), expected, folder)
            self.assertIn("disk.raw", lib.run("ls", "-lR", mount.point))

    def test_copy_of_a_large_disk_with_little_data(self):
        """100 GiB with 64 MiB of scattered data; with --long, 1 GiB of it."""
        data = lib.GIB if os.environ.get("LONG") == "1" else 64 * lib.MIB
        size, step = 100 * lib.GIB, lib.MIB
        image = os.path.join(self.dir, "large.qcow2")
        disks.create(image, size=size, bitmaps=["b"])
        places = self.rng.sample(range(size // step), data // (64 * lib.KIB))
        for at in range(0, len(places), 1024):
            disks.qemu_io(image, [f"write -q -P {self.rng.randint(1, 255)} {p * step} 64k"
                                  for p in places[at:at + 1024]])
        copy, archive = os.path.join(self.out, "b.raw"), os.path.join(self.out, "b.tar")
        with self.mount(image) as mount:
            took, folder = {}, mount / "large/dirty"
            for name, argv in {
                    "ls": ("ls", "-lsR", mount.point),
                    "cp": ("cp", "--sparse=auto", f"{folder}/b.raw", copy),
                    "tar": ("tar", "-C", folder, "-cSf", archive, "b.raw")}.items():
                began, before = time.monotonic(), self.read_from_server(mount)
                lib.run(*argv)
                took[name] = time.monotonic() - began
                # Read-ahead data may be evicted before it is used.
                self.assertLessEqual(self.read_from_server(mount) - before, 1.25 * data)
            print(f"{size >> 30} GiB with {data >> 20} MiB of dirty data:",
                  ", ".join(f"{name} {seconds:.2f} s" for name, seconds in took.items()))
            lib.run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", copy, image)
        self.assertLess(os.stat(archive).st_size, 1.02 * data)
        os.unlink(copy)
        lib.run("tar", "-C", self.out, "-xSf", archive)
        lib.run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", copy, image)

    @staticmethod
    def read_from_server(mount):
        return mount.json(".fleecefs/status.json")["exports"][0]["bytes_read"]

if __name__ == "__main__":
    lib.main()
