#!/usr/bin/env python3
"""Metadata that backup tools rely on: sizes, blocks, times, inodes, modes, xattrs, and lseek."""
import errno
import os
import stat

import disks
import lib


class Attributes(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.image = disks.create(os.path.join(self.dir, "vm.qcow2"), bitmaps=["b", ("fine", 512)])
        disks.scribble(self.image, self.rng, 30)
        disks.add_bitmap(self.image, "clean")

    def expected_ranges(self):
        """The data ranges of the raw files according to nbdinfo."""
        uri = self.qemu_nbd(self.image, "-r", "-f", "qcow2", "-B", "b", "-B", "fine",
                            "-B", "clean").uri
        ranges = {"disk.raw": disks.data_ranges(disks.nbd_map(uri), lambda kind: not kind & 2)}
        for bitmap in ("b", "fine", "clean"):
            ranges[f"dirty/{bitmap}.raw"] = disks.data_ranges(
                disks.dirty_map(uri, bitmap), lambda kind: kind & 1)
        return ranges

    @staticmethod
    def everything(mount):
        """All paths of the tree, including the root, except .fleecefs."""
        folders = {os.path.dirname(f) for f in mount.files()}
        folders |= {os.path.dirname(f) for f in folders}
        return sorted({*mount.files(), *folders, ""})

    def test_seek(self):
        expected = self.expected_ranges()
        with self.mount(self.image) as mount:
            for name, ranges in expected.items():
                fd = os.open(mount / ("vm/" + name), os.O_RDONLY)
                size = os.fstat(fd).st_size
                self.assertEqual(size, disks.ODD_SIZE)
                self.assertEqual(disks.seek_walk(fd), ranges, name)
                for whence in (os.SEEK_DATA, os.SEEK_HOLE):
                    for at in (size, size + 1, 1 << 62, -1):
                        self.assert_errno(errno.ENXIO, os.lseek, fd, at, whence)
                for start, end in ranges:
                    self.assertEqual(os.lseek(fd, start + 1, os.SEEK_DATA), start + 1)
                    self.assertEqual(os.lseek(fd, start + 1, os.SEEK_HOLE), end)
                self.assertEqual(os.lseek(fd, -1, os.SEEK_END), size - 1)
                os.close(fd)

    def test_blocks(self):
        expected = self.expected_ranges()
        with self.mount(self.image) as mount:
            for name in mount.files():
                st = os.stat(mount / name)
                data = st.st_size
                if name[len("vm/"):] in expected:
                    data = sum(e - s for s, e in expected[name[len("vm/"):]])
                elif name.endswith(".qcow2"):
                    continue
                self.assertEqual(st.st_blocks, -(-data // 512), name)
                if name.endswith((".map", ".json", ".ddrescue", ".pbm")):
                    self.assertEqual(st.st_size, len(mount.read(name, "rb")), name)

    def test_blocks_without_a_map(self):
        with self.mount(self.nbdkit("--no-sr", "memory", "1M").uri) as mount:
            self.assertEqual(os.stat(mount / "default/disk.raw").st_blocks, 2048)

    def test_modes_links_and_owner(self):
        with self.mount(self.image) as mount:
            for name in self.everything(mount):
                st = os.stat(mount / name)
                self.assertEqual((st.st_uid, st.st_gid), (os.getuid(), os.getgid()), name)
                if os.path.isdir(mount / name):
                    inside = [e for e in os.scandir(mount / name) if e.is_dir()]
                    self.assertEqual(oct(st.st_mode), oct(stat.S_IFDIR | 0o555), name)
                    self.assertEqual(st.st_nlink, 2 + len(inside), name)
                else:
                    self.assertEqual(oct(st.st_mode), oct(stat.S_IFREG | 0o444), name)
                    self.assertEqual(st.st_nlink, 1, name)

    def test_other_owner(self):
        with self.mount(self.image, options=["-o", "uid=1234,gid=5678"]) as mount:
            st = os.stat(mount / "vm/disk.raw")
            self.assertEqual((st.st_uid, st.st_gid), (1234, 5678))

    def snapshot_attributes(self, mount):
        found = {}
        for name in self.everything(mount):
            st = os.stat(mount / name)
            found[name] = st.st_ino
            if not name.endswith("info.json") and name != "" and not os.path.isdir(mount / name):
                found[name] = (st.st_ino, st.st_mtime_ns, st.st_ctime_ns, st.st_atime_ns,
                               st.st_size, st.st_blocks)
        return found

    def test_stable_across_mounts(self):
        with self.mount(self.image) as mount:
            first = self.snapshot_attributes(mount)
            inodes = [v if isinstance(v, int) else v[0] for v in first.values()]
            self.assertEqual(len(inodes), len(set(inodes)))
            times = os.stat(mount / "vm/disk.raw")
            image = os.stat(self.image)
            self.assertEqual((times.st_mtime_ns, times.st_atime_ns, times.st_ctime_ns),
                             (image.st_mtime_ns, image.st_mtime_ns, image.st_ctime_ns))
            newest = os.stat(mount / "vm/info.json").st_ctime_ns
            self.assertGreaterEqual(newest, times.st_ctime_ns)
        with self.mount(self.image) as mount:
            self.assertEqual(self.snapshot_attributes(mount), first)

    def test_every_mount_of_a_server_has_a_time_of_its_own(self):
        """In whole seconds: tools must not mistake a replaced disk for the one that they know."""
        server = self.qemu_nbd(self.image, "-r", "-f", "qcow2")
        times = []
        for _ in range(5):
            with self.mount(server.uri, env={"FLEECEFS_STATE_DIR": self.dir + "/state"}) as mount:
                st = os.stat(mount / "default/disk.raw")
                times += [int(st.st_mtime)]
                self.assertEqual(st.st_mtime_ns, st.st_ctime_ns)
        self.assertEqual(times, sorted(set(times)))

    def test_every_mount_of_a_block_device_has_a_time_of_its_own(self):
        """The device node's times do not reflect writes by a VM through another node."""
        if os.geteuid() != 0:
            self.skipTest("loop devices are root's")
        raw = self.path("raw")
        with open(raw, "wb") as f:
            f.truncate(lib.MIB)
        device = lib.run("losetup", "--read-only", "--find", "--show", raw).strip()
        self.defer(lib.attempt, "losetup", "--detach", device)
        times = [os.stat(device).st_mtime_ns]
        for _ in range(2):
            with self.mount(f"vm={device}", options=["-o", "format=raw"]) as mount:
                for file in "disk.raw", "split/000000":
                    st = os.stat(mount / f"vm/{file}")
                    self.assertGreater(st.st_mtime_ns, times[-1])
                times += [st.st_mtime_ns]

    def test_read_only(self):
        with self.mount(self.image) as mount:
            path, folder = mount / "vm/disk.raw", mount / "vm"
            for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC):
                self.assert_errno(errno.EROFS, os.open, path, flags)
            self.assert_errno(errno.EROFS, os.truncate, path, 0)
            self.assert_errno(errno.EROFS, os.unlink, path)
            self.assert_errno(errno.EROFS, os.rename, path, path + "2")
            self.assert_errno(errno.EROFS, os.mkdir, folder + "/new")
            self.assert_errno(errno.EROFS, os.open, folder + "/new", os.O_CREAT | os.O_WRONLY)
            self.assert_errno(errno.EROFS, os.symlink, "x", folder + "/new")
            self.assert_errno(errno.EROFS, os.link, path, folder + "/new")
            self.assert_errno(errno.EROFS, os.chmod, path, 0o600)
            self.assert_errno(errno.EROFS, os.utime, path)
            self.assert_errno(errno.EROFS, os.setxattr, path, "user.x", b"y")
            self.assert_errno(errno.ENOENT, os.stat, folder + "/missing")

    def test_extended_attributes(self):
        with self.mount(self.image) as mount:
            def attributes(name):
                path = mount / name
                return {a.removeprefix("user.fleecefs."): os.getxattr(path, a).decode()
                        for a in os.listxattr(path)}

            for name in self.everything(mount):
                self.assertTrue(all(a.startswith("user.fleecefs.")
                                    for a in os.listxattr(mount / name)), name)
            dirty = attributes("vm/dirty/b.raw")
            self.assertIn("qemu:dirty-bitmap:b", dirty.values())
            self.assertIn(str(disks.ODD_SIZE), dirty.values())
            self.assertIn("65536", dirty.values())
            blocks = os.stat(mount / "vm/dirty/b.raw").st_blocks * 512
            self.assertIn(str(blocks), dirty.values())
            self.assert_errno(errno.ENODATA, os.getxattr, mount / "vm/disk.raw", "user.none")

    def test_file_system(self):
        with self.mount(self.image) as mount:
            self.assertEqual(os.statvfs(mount.point).f_blocks, 0)
            with open("/proc/self/mounts") as f:
                line = next(line.split() for line in f if line.split()[1] == mount.point)
            self.assertEqual(line[2], "fuse.fleecefs")
            self.assertIn("ro", line[3].split(","))


if __name__ == "__main__":
    lib.main()
