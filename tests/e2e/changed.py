#!/usr/bin/env python3
"""fleecefs-changed against known changes of real file systems, written by the kernel and by other
drivers."""
import json
import os
import stat
import subprocess
import tarfile
import time

import lib
from filesystems import KINDS, SIZE, FileSystem, Model, differences, look, write_map
from vm import Disk, Vm

CHANGED = os.environ["FLEECEFS_CHANGED"]
CLOCK_REALTIME_COARSE = 5  # <linux/time.h>


class Changed(lib.TestCase):
    def setUp(self):
        super().setUp()
        lib.require("mkfs.ext4", "mkfs.ntfs", "ntfs-3g", "mkfs.vfat", "mcopy")
        if os.geteuid() != 0:
            self.skipTest("to mount takes root")

    def changed(self, *args, status=0, says=()):
        done = subprocess.run((CHANGED, *args), capture_output=True, timeout=lib.PATIENCE,
                              env=self.environment())
        self.assertEqual(done.returncode, status, done.stderr)
        for text in (says,) if isinstance(says, str) else says:
            self.assertIn(text, done.stderr.decode())
        if not says:
            self.assertEqual(done.stderr, b"")
        return done.stdout

    def ask(self, image, *args, **kwargs):
        """Returns the list, as objects."""
        return [json.loads(line) for line in
                self.changed("--json", *args, image, **kwargs).decode().splitlines()]

    def next_second(self):
        """Waits for the next second of the clock that inode times are taken from, which the timer of
        a busy virtual machine can leave behind."""
        begin = int(time.time()) + 1
        while time.clock_gettime(CLOCK_REALTIME_COARSE) < begin:
            time.sleep(0.01)
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(begin))

    def between(self, system, change, granule=65536, settle=True):
        """Runs CHANGE on SYSTEM; returns (image after it, map, time before it, tree before, tree after)."""
        before, old = system.copy("before"), look(system.root)
        since = self.next_second()
        change()
        new = look(system.root)
        if settle:
            # Writes out data that is only in the journal or the driver.
            system.unmount()
            system.mount()
        after, changes = system.copy("after"), self.path("changes.map")
        write_map(changes, differences(before, after, granule))
        return after, changes, since, old, new

    def check(self, image, changes, since, old, new, exact):
        """Asserts that no changed file is missed and, if EXACT, that no unchanged file is reported;
        except symbolic links, which cannot be synced: the block of a long one may reach the image only
        after the first copy."""
        found = self.ask(image, "--map", changes, "--newer", since)
        alive = {f["path"]: f for f in found if f["kind"] != "deleted" and "path" in f}
        for path, (contents, other, folder) in new.items():
            if path not in old or old[path][:2] != (contents, other):
                self.assertIn(path, alive)
            if (exact and path in alive and stat.S_ISREG(other[0])
                    and alive[path]["kind"] == "data"):
                self.assertNotEqual(old.get(path), new[path], path)
        for path in alive:
            self.assertIn(path, {*new, "."})
        return alive, [f for f in found if f["kind"] == "deleted"]

    def run_model(self, kind, rounds=6, granule=65536, exact=False, crash=False):
        system = FileSystem(self, kind)
        system.mount()
        model = Model(self.rng, system.root, has_links=kind not in ("exfat", "ntfs"))
        for _ in range(25):
            model.step()
        for _ in range(rounds):
            self.check(*self.between(system, lambda: [model.step() for _ in range(12)], granule,
                                     settle=not crash), exact)

    def test_ext4(self):
        self.run_model("ext4")

    def test_ext4_by_blocks(self):
        self.run_model("inline", granule=4096, exact=True)

    def test_ext4_with_new_features(self):
        self.run_model("wide")

    def test_ext3(self):
        self.run_model("ext3")

    def test_ext2(self):
        self.run_model("ext2")

    def test_ntfs(self):
        self.run_model("ntfs", rounds=4)

    def test_exfat(self):
        self.run_model("exfat", rounds=3)

    def test_guest_that_was_not_frozen(self):
        """The changes are only in the journal."""
        for kind in ("ext4", "ext3", "wide"):
            with self.subTest(kind):
                self.run_model(kind, crash=True)


    def fill(self, root):
        os.makedirs(f"{root}/var/log")
        os.makedirs(f"{root}/home")
        for name, size in (("var/log/syslog", 900_000), ("home/letter", 50_000), ("home/gone", 9000),
                           ("home/mode", 5000), ("home/still", 300_000)):
            with open(f"{root}/{name}", "wb") as f:
                f.write(self.rng.randbytes(size))

    def alter(self, root):
        with open(f"{root}/var/log/syslog", "ab") as f:
            f.write(self.rng.randbytes(800_000))
        with open(f"{root}/home/letter", "r+b") as f:
            f.write(b"Dear")
        os.link(f"{root}/home/letter", f"{root}/home/copy")
        os.chmod(f"{root}/home/mode", 0o600)
        os.unlink(f"{root}/home/gone")

    def example(self, granule=4096):
        """Returns a modified ext4 with 4 KiB blocks: (image, map, time before)."""
        KINDS["example"] = ("mkfs.ext4", "-q", "-F", "-b", "4096")
        system = FileSystem(self, "example")
        system.mount()
        self.fill(system.root)
        image, changes, since, *_ = self.between(system, lambda: self.alter(system.root), granule)
        return image, changes, since, system

    def test_kinds_of_changes(self):
        image, changes, since, _ = self.example()
        found = {f.get("path"): f for f in
                 self.ask(image, "--map", changes, "--newer", since, "--extents")}
        # Linux wipes the names of removed files since 5.13.
        gone = [p for p, f in found.items() if f["kind"] == "deleted"]
        self.assertIn(gone, (["home/gone"], [None]))
        self.assertEqual({p for p, f in found.items() if not f.get("folder")} - set(gone),
                         {"var/log/syslog", "home/letter", "home/copy", "home/mode"})
        self.assertGreaterEqual(found["var/log/syslog"]["bytes"], 800_000)
        self.assertEqual(found["home/letter"]["bytes"], 4096)
        self.assertEqual(found["home/letter"]["inode"], found["home/copy"]["inode"])
        with open(image, "rb") as f:
            extent = found["home/letter"]["extents"][0]
            self.assertEqual(extent["start"], extent["disk"])
            f.seek(extent["start"])
            self.assertEqual(f.read(4), b"Dear")
        self.assertEqual(found["home/mode"]["kind"], "metadata")
        only = self.ask(image, "--map", changes, "--newer", since, "--only=deleted")
        self.assertEqual([f.get("path") for f in only], gone)
        # Without times, all inodes in a block with a changed one may have changed.
        self.assertIn("home/still", {f.get("path") for f in self.ask(image, "--map", changes)})

    def test_text(self):
        image, changes, since, _ = self.example()
        args = ("--map", changes, "--newer", since, image)
        lines = [line.split(maxsplit=2) for line in self.changed(*args).decode().splitlines()]
        named = [line[2] for line in lines if not line[2].startswith("<inode ")]
        self.assertEqual(named, sorted(named))
        self.assertIn(["4096", "data", "home/letter"], lines)
        self.assertEqual([line[:2] for line in lines].count(["0", "deleted"]), 1)
        self.assertEqual(self.changed("--sort", *args).decode().splitlines()[0].split()[2],
                         "var/log/syslog")
        self.assertIn("4.0K  data       home/letter\n", self.changed("--human", *args).decode())
        sums = {line.split()[2]: int(line.split()[0])
                for line in self.changed("--summary=2", *args).decode().splitlines()}
        self.assertEqual(set(sums), {"./", "var/", "var/log/", "home/"})
        self.assertGreater(sums["var/log/"], sums["home/"])
        self.assertGreaterEqual(sums["./"], sums["var/"] + sums["home/"])
        both = self.changed("--map", changes, image, image).decode()
        self.assertEqual(both.count(f"{image}: home/letter\n"), 2)

    def test_large_folders(self):
        """Their indexes are mistaken neither for damage nor for names of removed files."""
        for kind in ("ext3", "ext4", "wide"):
            with self.subTest(kind):
                system = FileSystem(self, kind)
                system.mount()
                for number in range(900):
                    with open(f"{system.root}/a rather long name of file {number}", "wb"):
                        pass
                for number in range(0, 900, 30):
                    os.unlink(f"{system.root}/a rather long name of file {number}")
                expected = set(os.listdir(system.root))
                system.unmount()
                everything = self.path("all.map")
                write_map(everything, [(0, SIZE, True)])
                found = self.ask(system.image, "--map", everything)
                self.assertEqual({f["path"] for f in found if f["kind"] != "deleted"}, {*expected, "."})
                for file in found:
                    if file["kind"] == "deleted" and "path" in file:
                        self.assertRegex(file["path"], r"\Aa rather long name of file \d+\Z")

    def test_names_for_tar_and_rsync(self):
        image, changes, since, system = self.example()
        names = self.changed("--null", "--map", changes, "--newer", since, image)
        self.assertEqual({n.decode() for n in names.split(b"\0")[:-1]} - {".", "home", "var", "var/log"},
                         {"var/log/syslog", "home/letter", "home/copy", "home/mode"})
        archive = self.path("files.tar")
        subprocess.run(("tar", "-C", system.root, "--null", "--no-recursion", "-T-", "-cf", archive),
                       input=names, check=True)
        with tarfile.open(archive) as tar:
            self.assertIn("home/letter", tar.getnames())
            self.assertNotIn("home/still", tar.getnames())
        copy = self.mkdir("copy")
        subprocess.run(("rsync", "-a", "--from0", "--files-from=-", system.root, copy), input=names,
                       check=True)
        self.assertEqual(sorted(os.listdir(copy + "/home")), ["copy", "letter", "mode"])

    def test_several_maps_are_put_together(self):
        image, changes, since, _ = self.example()
        none = self.path("none.map")
        write_map(none, [(0, SIZE, False)])
        self.assertEqual(self.ask(image, "--map", none), [])
        self.assertEqual(self.ask(image, "--map", none, "--map", changes, "--newer", since),
                         self.ask(image, "--map", changes, "--newer", since))

    def test_fat(self):
        """With mtools: the kernel may lack FAT."""
        image, root = self.path("fat"), self.mkdir("fat-root")
        with open(image, "wb") as f:
            f.truncate(SIZE)
        lib.run(*KINDS["vfat"], "-n", "LABEL", image)
        self.fill(root)
        lib.run("mcopy", "-s", "-i", image, root + "/var", root + "/home", "::/")
        before = self.path("fat-before")
        lib.run("cp", image, before)
        with open(root + "/home/letter", "ab") as f:
            f.write(b"!" * 9000)
        lib.run("mcopy", "-o", "-i", image, root + "/home/letter", "::/home/a longer name")
        lib.run("mdel", "-i", image, "::/home/gone")
        changes = self.path("fat.map")
        write_map(changes, differences(before, image, 512))
        found = {f.get("path"): f["kind"] for f in self.ask(image, "--map", changes)}
        self.assertEqual(found["home/a longer name"], "data")
        self.assertNotIn("var/log/syslog", found)
        self.assertIn("deleted", found.values())
        self.assertFalse([p for p in found if p and "$" in p or "LABEL" in (p or "")])

    def test_mount(self):
        """A partition of a disk image: finds its place and bitmaps automatically."""
        lib.require("sfdisk")
        image, changes, since, _ = self.example()
        part, disk = lib.MIB, self.path("disk.raw")
        with open(disk, "wb") as f:
            f.truncate(part + SIZE + lib.MIB)
        subprocess.run(("sfdisk", "-q", disk), input=f"{part // 512},{SIZE // 512}\n".encode(), check=True)
        lib.run("dd", f"if={image}", f"of={disk}", "bs=1M", "seek=1", "conv=notrunc,sparse", "status=none")
        qcow2 = self.path("web.qcow2")
        lib.run("qemu-img", "convert", "-O", "qcow2", disk, qcow2)
        lib.run("qemu-img", "bitmap", "--add", "-g", "4k", qcow2, "sunday")
        ranges = []
        with open(changes) as f:
            for line in f:
                start, length, kind, _ = line.split()
                if kind == "1":
                    ranges.append((int(start), int(length)))
        # Rewrites the same bytes, so that only the bitmap changes.
        with open(image, "rb") as f:
            for start, length in ranges:
                f.seek(start)
                piece = self.path("piece")
                with open(piece, "wb") as out:
                    out.write(f.read(length))
                lib.run("qemu-io", "-f", "qcow2", "-c", f"write -q -s {piece} {part + start} {length}", qcow2)
        lib.run("qemu-img", "bitmap", "--add", "-g", "4k", qcow2, "monday")
        start, _ = ranges[-1]
        lib.run("qemu-io", "-f", "qcow2", "-c", f"write -q -z {part + 0} 512", qcow2)
        with self.mount(f"web={qcow2}") as mount:
            path = mount / "web/part1.raw"
            expected = {f.get("path"): f["kind"] for f in
                        self.ask(image, "--map", changes, "--newer", since)}
            found = {f.get("path"): f["kind"] for f in
                     self.ask(path, "--since", "sunday", "--newer", since)}
            self.assertEqual(found, expected)
            with open(mount / "web/disk.raw", "rb") as f:
                extent = next(e for file in self.ask(path, "--since", "sunday", "--extents")
                              if file.get("path") == "home/letter" for e in file["extents"])
                self.assertEqual(extent["disk"], part + extent["start"])
                f.seek(extent["disk"])
                self.assertEqual(f.read(4), b"Dear")
            self.assertEqual(self.ask(path, "--since", "monday"), [])
            self.assertEqual({f.get("path") for f in self.ask(path, "--between", "sunday", "monday",
                                                              "--newer", since)}, set(expected))
            self.changed(path, status=1, says="choose with --since: ")
            self.changed("--since", "tuesday", path, status=1, says="no bitmap 'tuesday'; choose")
            self.changed(mount / "web/disk.raw", "--since", "sunday", status=1,
                         says="such as part1.raw")
            self.changed(mount / "web/disk.qcow2", status=1, says="no such partition")
            self.changed(mount / "web/dirty/sunday.raw", status=1, says="no info.json of a disk is beside")
            empty = self.path("empty")
            with open(empty, "w"):
                pass
            self.changed("--map", empty, path, status=1, says=f"{empty} is empty")
            for words, says in ((["--summary=-1", path], "--summary=-1: a depth"), ([""], "PART is empty"),
                                (["--only=", path], "--only is empty"),
                                (["--nosuch"], "see fleecefs-changed --help"),
                                (["--extents", path], "--extents requires --json"), ([], "no PART given")):
                self.changed(*words, status=2, says=says)

    def test_logical_volume(self):
        """Striped over the disk, according to info.json."""
        image, changes, since, _ = self.example()
        folder, stripe = self.mkdir("web"), 65536
        os.mkdir(folder + "/lv")
        os.mkdir(folder + "/dirty")
        volume = folder + "/lv/g--1-root.raw"
        os.rename(image, volume)
        with open(folder + "/info.json", "w") as f:
            json.dump({"contexts": [{"bitmap": "sunday"}], "point_in_time": "2026-11-21T03:00:00Z",
                       "logical_volumes": [
                           {"group": "g", "name": "1-root", "parts": []},
                           {"group": "g-1", "name": "root", "parts": [
                               {"length": SIZE // 2, "stripe": SIZE // 2, "areas": [SIZE * 2]},
                               {"length": SIZE // 2, "stripe": stripe, "areas": [SIZE, 0]}]}]}, f)

        def on_disk(at):
            if at < SIZE // 2:
                return SIZE * 2 + at
            row, column = divmod((at - SIZE // 2) // stripe, 2)
            return (SIZE, 0)[column] + row * stripe + at % stripe
        with open(changes) as f:
            dirty = [(on_disk(at), 4096) for start, length, kind, _ in map(str.split, f) if kind == "1"
                     for at in range(int(start), int(start) + int(length), 4096)]
        ranges, end = [], 0
        for start, length in sorted(dirty):
            ranges += [(end, start - end, False)] * (start > end) + [(start, length, True)]
            end = start + length
        write_map(folder + "/dirty/sunday.map", [*ranges, (end, SIZE * 3 - end, False)])
        found = self.ask(volume, "--newer", since, "--extents")
        alone = self.path("alone.raw")
        os.link(volume, alone)
        self.assertEqual([f.get("path") for f in found],
                         [f.get("path") for f in self.ask(alone, "--map", changes, "--newer", since)])
        extents = [e for f in found for e in f.get("extents", ())]
        self.assertTrue(extents)
        for extent in extents:
            self.assertEqual(extent["disk"], on_disk(extent["start"]))
            self.assertEqual(extent["disk"] + extent["length"] - 1,
                             on_disk(extent["start"] + extent["length"] - 1))

    def test_running_vm(self):
        """Finds a snapshot's increment and its time automatically."""
        KINDS["example"] = ("mkfs.ext4", "-q", "-F", "-b", "4096")
        system = FileSystem(self, "example")
        system.mount()
        self.fill(system.root)
        system.unmount()
        disk = Disk(self, "vda", size=SIZE)
        lib.run("qemu-img", "convert", "-n", "-O", "qcow2", system.image, disk.image)
        system.mount()
        vm = Vm(self, [disk])
        before = system.copy("before")
        with self.mount(f"qmp:{vm.monitor}") as mount:
            self.changed(mount / "vda/disk.raw", status=1, says="a first backup is full")
            self.assertEqual(self.fleecefs("--commit", "--force", mount.point).returncode, 0)
        self.next_second()
        self.alter(system.root)
        system.unmount()
        piece = self.path("piece")
        for start, length, dirty in differences(before, system.image, 4096):
            if dirty:
                with open(system.image, "rb") as f, open(piece, "wb") as out:
                    f.seek(start)
                    out.write(f.read(length))
                vm.io("vda", f"write -s {piece} {start} {length}")
        with self.mount(f"qmp:{vm.monitor}") as mount:
            found = {f.get("path"): f for f in self.ask(mount / "vda/disk.raw")}
            self.assertLessEqual({"var/log/syslog", "home/letter", "home/copy", "home/mode"},
                                 set(found))
            self.assertGreaterEqual(found["var/log/syslog"]["bytes"], 800_000)
            self.assertIn("deleted", {f["kind"] for f in found.values()})
            self.fleecefs("--abort", mount.point)

    def test_refusals(self):
        image, clean = self.path("image"), self.path("clean.map")
        write_map(clean, [(0, lib.MIB, False)])
        for magic, at, says in ((b"XFSB", 0, "XFS, which no library reads"),
                                (b"_BHRfS_M", 0x10040, "btrfs, which"),
                                (b"LUKS\xba\xbe", 0, "encrypted"),
                                (b"LABELONE", 512, "physical volume of LVM"),
                                (b"SWAPSPACE2", 0xff6, "swap space"),
                                (b"\0", 0, "no supported file system")):
            with open(image, "wb") as f:
                f.truncate(lib.MIB)
                f.seek(at)
                f.write(magic)
            self.changed("--map", clean, image, status=1, says=says)
        self.changed(image, status=1, says="give a file of a fleecefs mount")
        self.changed("--map", clean, "/nowhere", status=1, says="/nowhere: No such file")
        self.changed("--map", "/nowhere", image, status=1, says="/nowhere: No such file")
        with open(clean, "a") as f:
            f.write("1 2 0 clean\n")
        self.changed("--map", clean, image, status=1, says="clean.map:2: not a line of a map")
        write_map(clean, [(0, 512, False)])
        self.changed("--map", clean, image, status=1, says="of another disk")
        for args in ((), ("--json", "--null", image), ("--only=x", image), ("--newer=soon", image),
                     ("--between", "a"), ("--since=a", "--map=b", image), ("--wrong",)):
            self.changed(*args, status=2, says="fleecefs-changed: ")

    def test_damaged_file_systems(self):
        """Any walk ends, and reports how."""
        rounds = int(os.environ.get("ROUNDS", 15))
        for kind in ("example", "ext3", "ntfs", "exfat", "vfat"):
            with self.subTest(kind):
                self.damage(kind, rounds)

    def damage(self, kind, rounds):
        if kind == "example":
            image, *_ = self.example()
        else:
            image = self.path(kind)
            with open(image, "wb") as f:
                f.truncate(SIZE)
            lib.run(*KINDS[kind], image)
        dirty = self.path("dirty.map")
        write_map(dirty, [(0, SIZE, True)])
        with open(image, "rb") as f:
            whole = f.read()
        # Where there is data, in sectors.
        used = [at for at in range(0, SIZE, 512) if any(whole[at:at + 512])]
        for _ in range(rounds):
            bad = bytearray(whole)
            for _ in range(self.rng.choice((1, 5, 50))):
                at = self.rng.choice(used) + self.rng.randrange(512)
                bad[at:at + 1] = self.rng.choice((b"\0", b"\xff", self.rng.randbytes(1),
                                                  self.rng.randbytes(4)))[:4]
            path = self.path("bad")
            with open(path, "wb") as f:
                f.write(bad[:SIZE])
            done = subprocess.run((CHANGED, "--map", dirty, path), capture_output=True,
                                  timeout=lib.PATIENCE)
            self.assertIn(done.returncode, (0, 1, 3), done.stderr)
            self.assertEqual(done.returncode == 0, done.stderr == b"")
            os.unlink(path)


if __name__ == "__main__":
    lib.main()
