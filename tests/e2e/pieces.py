#!/usr/bin/env python3
"""A folder of pieces as a source, as stored or presented by backup tools."""
import concurrent.futures
import json
import os
import shutil
import signal
import subprocess
import time

import disks
import lib

PIECE = lib.MIB
COUNT = 12
SIZE = (COUNT - 1) * PIECE + 70000


class Pieces(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.top = self.mkdir("backup")
        self.folder = self.top + "/web/vda/split"
        os.makedirs(self.folder)
        disk = bytearray(self.rng.randbytes(SIZE))
        # Piece 2 is a hole, piece 3 contains one, and one spans pieces 4 and 5.
        self.holes = [(2 * PIECE, 3 * PIECE), (3 * PIECE + PIECE // 4, 3 * PIECE + PIECE // 2),
                      (5 * PIECE - PIECE // 4, 5 * PIECE + PIECE // 8)]
        for start, end in self.holes:
            disk[start:end] = bytes(end - start)
        self.disk = bytes(disk)
        for index in range(COUNT):
            self.store(index)

    def piece(self, index):
        return f"{self.folder}/{index:06}"

    def store(self, index):
        content = self.disk[index * PIECE:(index + 1) * PIECE]
        with open(self.piece(index), "wb") as f:
            for at in range(0, len(content), 4096):
                part = content[at:at + 4096]
                if part.strip(b"\0"):
                    f.seek(at)
                    f.write(part)
            f.truncate(len(content))

    def check(self, mount, folder="vda", holes=True):
        with open(mount / f"{folder}/disk.raw", "rb") as f:
            self.assertTrue(f.read() == self.disk)
            if holes:
                edges = [0, *(edge for hole in self.holes for edge in hole), SIZE]
                self.assertEqual(disks.seek_walk(f.fileno()),
                                 list(zip(edges[::2], edges[1::2])))

    def test_it_is_the_disk(self):
        with self.mount(self.folder) as mount:
            self.check(mount)
            self.assertEqual(disks.raw_bytes(mount / "vda/disk.qcow2", self.path("raw"))[:SIZE], self.disk)
            latest = max(os.stat(self.piece(i)).st_mtime_ns for i in range(COUNT))
            self.assertEqual(os.stat(mount / "vda/disk.raw").st_mtime_ns, latest)
            self.assertEqual(mount.json("vda/info.json")["source"], self.folder)

            def read(_):
                at = self.rng.randrange(SIZE)
                length = self.rng.randrange(3 * PIECE)
                with open(mount / "vda/disk.raw", "rb") as f:
                    return os.pread(f.fileno(), length, at) == self.disk[at:at + length]
            with concurrent.futures.ThreadPoolExecutor(16) as pool:
                self.assertTrue(all(pool.map(read, range(200))))
            descriptors = os.listdir(f"/proc/{mount.pid}/fd")
            self.assertLess(len(descriptors), 30)

    def test_names(self):
        os.rename(self.folder, self.top + "/monday")
        with self.mount(self.top + "/monday") as mount:
            self.check(mount, "monday")
        with self.mount("x=" + self.top + "/monday") as mount:
            self.check(mount, "x")

    def test_pieces_of_a_mount(self):
        """Pieces of another mount, with their holes; a mount of those has the same maps."""
        raw = self.path("sda.raw")
        with open(raw, "wb") as f:
            f.write(self.disk)
        for start, end in self.holes:
            lib.run("fallocate", "--punch-hole", f"--offset={start}", f"--length={end - start}", raw)
        with self.mount(raw, options=["-o", "format=raw,split=1M"]) as lower:
            below = lower.folders()[0]
            # QEMU and st_blocks count in sectors.
            self.disk += bytes(-SIZE % 512)
            with self.mount(lower / f"{below}/split", options=["-o", "split=2M"]) as upper:
                with open(upper / f"{below}/disk.raw", "rb") as f:
                    self.assertTrue(f.read() == self.disk)
                    with open(lower / f"{below}/disk.raw", "rb") as g:
                        self.assertEqual(disks.seek_walk(f.fileno())[:-1],
                                         disks.seek_walk(g.fileno())[:-1])

    def test_what_restic_shows(self):
        env = {**self.environment(), "RESTIC_PASSWORD": "x"}
        point, repository = self.mkdir("shown"), self.path("repository")
        lib.require("restic")
        lib.run("restic", "-r", repository, "init", env=env)
        lib.run("restic", "-r", repository, "backup", "vda", cwd=self.top + "/web", env=env)
        with subprocess.Popen(["restic", "-r", repository, "mount", point], env=env,
                              stdout=subprocess.DEVNULL) as shows:
            self.wait_mounted(point, shows)
            try:
                with self.mount(point + "/snapshots/latest/vda/split") as mount:
                    self.check(mount, holes=False)
            finally:
                shows.send_signal(signal.SIGINT)

    def test_what_borg_shows(self):
        lib.require("borg")
        env = {**self.environment(), "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}
        point, repository = self.mkdir("shown"), self.path("repository")
        lib.run("borg", "init", "--encryption=none", repository, env=env)
        lib.run("borg", "create", "--sparse", "--chunker-params=fixed,4194304", repository + "::a", "vda",
                cwd=self.top + "/web", env=env)
        done = lib.attempt("borg", "mount", repository + "::a", point, env=env)
        if "llfuse" in done.stderr and done.returncode != 0:
            self.skipTest("borg without FUSE")
        self.assertEqual(done.returncode, 0, done.stderr)
        try:
            with self.mount(point + "/vda/split") as mount:
                self.check(mount, holes=False)
        finally:
            lib.run("borg", "umount", point, env=env)

    def wait_mounted(self, point, process):
        deadline = time.monotonic() + lib.PATIENCE
        while not lib.is_mounted(point):
            self.assertIsNone(process.poll(), "it did not mount")
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)

    def test_what_is_wrong_is_named(self):
        def remove(index):
            return lambda: os.unlink(self.piece(index))

        def cut(index, size):
            return lambda: os.truncate(self.piece(index), size)

        def put(name, make):
            return lambda: make(f"{self.folder}/{name}")

        def instead(index, make):
            return lambda: (os.unlink(self.piece(index)), make(self.piece(index)))

        def touch(path):
            with open(path, "w"):
                pass

        def note(size):
            def write():
                with open(self.top + "/web/vda/info.json", "w") as f:
                    json.dump({"size": size}, f)
            return write

        def mark():
            remove(COUNT - 1)()
            os.setxattr(self.piece(0), "user.fleecefs.disk_size", str(SIZE).encode())

        for spoil, says in (
                (remove(0), "piece 000000 is missing"),
                (remove(5), "piece 000005 is missing"),
                (cut(0, PIECE - 1), f"piece 000000 has {PIECE - 1} bytes"),
                (cut(4, PIECE // 2), f"piece 000004 has {PIECE // 2} bytes"),
                (cut(4, PIECE * 2), f"piece 000004 has {PIECE * 2} bytes"),
                (cut(COUNT - 1, PIECE + 1), f"piece {COUNT - 1:06} has {PIECE + 1} bytes"),
                (cut(3, 0), "piece 000003 is empty"),
                (put(".000003.Xy12ab", touch), ".000003.Xy12ab is not a piece"),
                (put("0000012", touch), "0000012 is not a piece"),
                (put("README", touch), "README is not a piece"),
                (instead(7, os.mkdir), "piece 000007 is not a file"),
                (instead(7, lambda path: os.symlink("000006", path)), "piece 000007 is not a file"),
                (lambda: (remove(COUNT - 1)(), note(SIZE)()), f"piece {COUNT - 1:06} is missing"),
                (lambda: (cut(COUNT - 1, 4096)(), note(SIZE)()), f"piece {COUNT - 1:06} is missing"),
                (mark, f"piece {COUNT - 1:06} is missing"),
                (lambda: [remove(i)() for i in range(COUNT)], "no piece of a disk")):
            spoil()
            self.assert_refused(self.folder, self.mkdir("mnt"), says=[self.folder, says])
            shutil.rmtree(self.folder)
            os.mkdir(self.folder)
            if os.path.exists(self.top + "/web/vda/info.json"):
                os.unlink(self.top + "/web/vda/info.json")
            for index in range(COUNT):
                self.store(index)
        self.assert_refused(self.top + "/web/vda", self.mkdir("mnt"), says=["they are in", self.folder])
        self.assert_refused(self.top, self.mkdir("mnt"), says=["no piece of a disk"])
        note(SIZE)()
        with self.mount(self.folder) as mount:
            self.check(mount)

    def test_a_piece_that_changes(self):
        """Data that is no longer the disk's is an error that names the piece, never zeros or other bytes."""
        def rewrite(path):
            with open(path, "r+b") as f:
                f.write(b"changed")

        def replace(path):
            with open(path + ".new", "wb") as f:
                f.write(bytes(PIECE))
            os.rename(path + ".new", path)

        def grow_again(path):
            os.truncate(path, 0)
            os.truncate(path, PIECE)

        for change in (rewrite, replace, os.unlink, lambda path: os.truncate(path, 100), grow_again):
            with self.mount(self.folder, options=["-o", "readahead=0"]) as mount:
                with open(mount / "vda/disk.raw", "rb", buffering=0) as f:
                    self.assertEqual(os.pread(f.fileno(), 4096, 0), self.disk[:4096])
                    link = self.path("link")  # as rsync --link-dest makes one
                    os.link(self.piece(6), link)
                    os.unlink(link)
                    self.assertEqual(os.pread(f.fileno(), 4096, 6 * PIECE),
                                     self.disk[6 * PIECE:6 * PIECE + 4096])
                    change(self.piece(8))
                    self.assert_errno(lib.errno.EIO, os.pread, f.fileno(), 4096, 8 * PIECE)
                    self.assert_errno(lib.errno.EIO, os.pread, f.fileno(), 4096, 9 * PIECE)
                self.assertIn("piece 000008 changed since", mount.read(".fleecefs/status.json"))
            with open(self.piece(8), "wb"):
                pass
            self.store(8)

    def test_a_file_system_that_hangs(self):
        """Reads time out, and unmounting works, whatever happens to the file system below."""
        raw = disks.create(self.path("sda.qcow2"), 8 * lib.MIB)
        disks.qemu_io(raw, ["write -q -P 7 0 8M"])
        with self.mount(raw, options=["-o", "split=1M"]) as lower:
            split = lower / f"{lower.folders()[0]}/split"
            upper = self.mount(split, options=["-o", "timeout=1,reconnect=1,readahead=0"])
            with open(upper / f"{upper.folders()[0]}/disk.raw", "rb", buffering=0) as f:
                self.assertEqual(os.pread(f.fileno(), 4096, 0), b"\7" * 4096)
                os.kill(lower.pid, signal.SIGSTOP)
                try:
                    self.assert_errno(lib.errno.EIO, os.pread, f.fileno(), 4096, 4 * lib.MIB)
                    f.close()
                    lib.run("fusermount3", "-u", upper.point)
                finally:
                    os.kill(lower.pid, signal.SIGCONT)
            upper.check_gone()

    def test_files_of_others(self):
        """As with images, root reads them without privileges over other users' files."""
        if os.geteuid() != 0:
            self.skipTest("only root sees files of others")
        for index in range(COUNT):
            os.chown(self.piece(index), 65534, 65534)
            os.chmod(self.piece(index), 0o400)
        os.chown(self.folder, 65534, 65534)
        os.chmod(self.folder, 0o700)
        with self.mount(self.folder) as mount:
            self.check(mount)


if __name__ == "__main__":
    lib.main()
