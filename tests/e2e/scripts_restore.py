#!/usr/bin/env python3
"""contrib/fleecefs-restore on synthetic backups: identity of disks, order, untrusted input, and long
chains."""
import datetime
import json
import os
import shutil
import stat

import lib
from disks import qemu_io
from vm import Disk, Vm

RESTORE = f"{lib.TOP}/contrib/fleecefs-restore"
SIZE = lib.MIB
WEB = {"uuid": "11111111-2222-3333-4444-555555555555", "name": "web", "source": "qmp:/run/web/qmp"}
DB = {"uuid": "99999999-2222-3333-4444-555555555555", "name": "db", "source": "qmp:/run/db/qmp"}


def point(number):
    return f"20261121T{number:06}Z-{number:016x}"


class Stored(lib.TestCase):
    """Synthetic backups in self.to."""

    def setUp(self):
        super().setUp()
        self.to = self.mkdir("backups")

    def store(self, folder, byte, at, form="qcow2", base=None, number=None, **said):
        """Stores a disk, full or an increment, in FOLDER, whose cluster AT contains BYTE."""
        home = f"{self.to}/{folder}"
        os.makedirs(home + ("/dirty" if base else ""))
        path = f"{home}/{'dirty/last' if base else 'disk'}.{form}"
        image = path if form == "qcow2" else self.path("image")
        lib.run("qemu-img", "create", "-q", "-f", "qcow2", image, SIZE)
        qemu_io(image, [f"write -P {byte} {at * 65536} 64k"])
        if form == "raw":
            lib.run("qemu-img", "convert", "-O", "raw", image, path)
            if base:
                with open(path[:-3] + "ddrescue", "w") as f:
                    start, end = at * 65536, (at + 1) * 65536
                    f.write(f"0x0 + 1\n0x0 {start:#x} ?\n{start:#x} 0x10000 +\n"
                            f"{end:#x} {SIZE - end:#x} ?\n")
        contexts = [{"bitmap": "last", "base": base}] if base else []
        info = {"size": SIZE, "contexts": contexts, "point_in_time": "2026-11-21T06:30:00Z",
                **({"base": base} if base else {}), **said}
        with open(home + "/info.json", "w") as f:
            json.dump(info, f)
        if number is not None:
            with open(f"{home}/../vm.json", "w") as f:
                json.dump({"vm": said.get("vm"), "number": number,
                           "generation": os.path.basename(os.path.dirname(home))}, f)
        return path

    @staticmethod
    def disk(**bytes_at):
        """Returns a disk given by its clusters: c3=7 is 64 KiB of 7 at cluster 3."""
        data = bytearray(SIZE)
        for name, byte in bytes_at.items():
            data[int(name[1:]) * 65536:(int(name[1:]) + 1) * 65536] = bytes([byte]) * 65536
        return bytes(data)

    def pieces(self, folder, *disk, step=2 * 65536, **said):
        """Stores a disk in pieces, as rsync and others do."""
        home = f"{self.to}/{folder}"
        os.makedirs(home + "/split")
        disk = disk[0] if disk else self.disk(c3=7, c15=9)
        for number, at in enumerate(range(0, len(disk), step)):
            with open(f"{home}/split/{number:06}", "wb") as f:
                piece = disk[at:at + step]
                f.truncate(len(piece))
                for start in range(0, len(piece), 65536):
                    if any(piece[start:start + 65536]):
                        f.seek(start)
                        f.write(piece[start:start + 65536])
        with open(home + "/info.json", "w") as f:
            json.dump({"size": len(disk), "contexts": [], "point_in_time": "", **said}, f)
        return home + "/split"


class Restore(Stored):
    def restore(self, *options, folder=None, status=0, says="."):
        """Runs fleecefs-restore; returns the restored disk."""
        out = self.path("restored")
        done = lib.attempt(RESTORE, "-O", "raw", *options, folder or self.to, out, timeout=600)
        self.assertEqual(done.returncode, status, done.stderr)
        self.assertRegex(done.stderr, says)
        if status:
            self.assertNotIn("Traceback", done.stderr)
            self.assertEqual(done.stderr.count("\n") - done.stderr.count(f"  {self.to}"), 1)
            self.assertFalse(os.path.exists(out))
            return None
        with open(out, "rb") as f:
            return f.read()

    def list(self, *options, status=0):
        done = lib.attempt(RESTORE, "--list", *options, self.to, timeout=5 * lib.PATIENCE)
        self.assertEqual((done.returncode, done.stderr), (status, ""))
        return done.stdout

    def test_several_vms(self):
        for number, vm in enumerate((WEB, DB)):
            self.store(f"{vm['name']}/{point(number)}/vda", number + 1, 0, vm=vm,
                       restore_point=point(number), disk_id=f"d{number}")
        self.restore("-d", "vda", status=1, says="several VMs.*--vm: db.*web")
        self.restore("--vm", "mail", status=1, says="no VM mail; stored VMs: db, .*; web, ")
        self.assertTrue(self.restore("--vm", "web") == self.disk(c0=1))
        self.assertTrue(self.restore("--vm", DB["uuid"]) == self.disk(c0=2))
        self.assertTrue(self.restore(folder=self.to + "/web") == self.disk(c0=1))
        # Older versions recorded no VM: each folder belongs to another one.
        for number, name in enumerate(("old", "older")):
            self.store(f"{name}/{point(number)}/vda", number + 3, 0, restore_point="p")
        self.restore(status=1, says="several VMs.*; old, .*; older, .*; web")
        self.assertTrue(self.restore("--vm", "older") == self.disk(c0=4))

    def test_vm_that_was_partly_recorded(self):
        """An older version recorded nothing, and QEMU had no UUID at first: both belong to one VM."""
        self.store("web/a/vda", 1, 0, restore_point="a")
        self.store("web/b/vda", 2, 1, base="a", restore_point="b", vm={"source": WEB["source"]})
        self.store("web/c/vda", 3, 2, base="b", restore_point="c", vm=WEB)
        self.assertTrue(self.restore() == self.disk(c0=1, c1=2, c2=3))

    def test_disks_trade_places(self):
        """An increment belongs to its disk, whatever its folder is called."""
        for disk, byte in (("vda", 1), ("vdb", 2)):
            self.store(f"a/{disk}", byte, 0, restore_point="a", disk_id=f"id{byte}", number=0, vm=WEB)
        for disk, byte, old in (("vda", 4, 2), ("vdb", 3, 1)):
            self.store(f"b/{disk}", byte, 1, base="a", restore_point="b", disk_id=f"id{old}",
                       number=1, vm=WEB)
        self.assertTrue(self.restore("-d", "vda") == self.disk(c0=2, c1=4))
        self.assertTrue(self.restore("-d", "vdb") == self.disk(c0=1, c1=3))
        self.assertTrue(self.restore("-d", "vda", "--at", "a") == self.disk(c0=1))
        self.assertTrue(self.restore("-d", "id1") == self.disk(c0=1, c1=3))

    def test_disk_with_a_new_name(self):
        self.store("a/vda", 1, 0, restore_point="a", disk_id="d", number=0, vm=WEB)
        self.store("b/root", 2, 1, base="a", restore_point="b", disk_id="d", number=1, vm=WEB)
        self.assertTrue(self.restore("-d", "root") == self.disk(c0=1, c1=2))
        self.assertTrue(self.restore() == self.disk(c0=1, c1=2))
        self.restore("-d", "vda", status=1, says="vda is not in the newest generation, b, which has "
                                                 "root; use --at a")
        self.assertTrue(self.restore("-d", "vda", "--at", "a") == self.disk(c0=1))
        self.store("c/vda", 3, 2, restore_point="c", disk_id="e", number=2, vm=WEB)
        self.assertTrue(self.restore() == self.disk(c2=3))
        self.store("d/vdb", 4, 3, restore_point="d", disk_id="f", number=3, vm=WEB)
        self.restore(status=1, says="several disks, choose one with --disk: root, vda, vdb")

    def test_another_disk_of_the_same_name(self):
        """Even with the same time and size, another disk is not used as the base."""
        self.store("a/vda", 1, 0, restore_point="a", disk_id="one")
        self.store("b/vda", 2, 1, base="a", restore_point="b", disk_id="two")
        self.restore(status=1, says="needs restore point a, which is missing")

    def test_order(self):
        """Sorted by numbers and bases, because clocks may be wrong."""
        self.store("a/vda", 1, 0, restore_point="a", number=0, vm=WEB,
                   point_in_time="2027-11-21T06:30:00Z")
        self.store("b/vda", 2, 1, base="a", restore_point="b", number=1, vm=WEB,
                   point_in_time="2026-01-01T06:30:00Z")
        self.store("c/vda", 3, 2, base="b", restore_point="c", number=2, vm=WEB,
                   point_in_time="2025-01-01T06:30:00Z")
        self.assertTrue(self.restore() == self.disk(c0=1, c1=2, c2=3))
        self.store("d/vda", 9, 0, restore_point="d", number=3, vm=WEB,
                   point_in_time="2024-01-01T06:30:00Z")
        self.assertTrue(self.restore() == self.disk(c0=9))
        self.assertEqual([line.split("/")[-3] for line in self.list().replace("/dirty", "").split()
                          if line.startswith(self.to)], ["a", "b", "c", "d"])
        for name in ("a", "b", "c"):
            os.unlink(f"{self.to}/{name}/vm.json")
        shutil.rmtree(self.to + "/d")
        self.assertTrue(self.restore() == self.disk(c0=1, c1=2, c2=3))

    def test_times(self):
        noon = datetime.datetime.now().astimezone().replace(hour=12, minute=0, second=0, microsecond=0)
        for number, days in enumerate((3, 2, 1)):
            taken = (noon - datetime.timedelta(days=days)).astimezone(datetime.timezone.utc)
            self.store(f"{point(number)}/vda", number + 1, 0, restore_point=point(number),
                       number=number, vm=WEB, point_in_time=taken.strftime("%Y-%m-%dT%H:%M:%S.5Z"))
        day = (noon - datetime.timedelta(days=2)).strftime("%Y-%m-%d")
        weekday = (noon - datetime.timedelta(days=3)).strftime("%A")
        for at, byte in (("yesterday", 3), ("2 days ago", 2), (day, 2), (day + " 12:00", 2),
                         (day + " 11:59", 1), (day + "T11:59:59", 1), (weekday, 1), ("now", 3),
                         ("yesterday 12:00", 3), ("yesterday 11:59", 2), (weekday + " 12:00", 1),
                         (point(1)[:16], None), (point(1), 2)):
            if byte is not None:
                self.assertTrue(self.restore("--at", at) == self.disk(c0=byte), at)
        self.restore("--at", "4 days ago", status=1, says="no such backup")
        self.restore("--at", "2026-13-45", status=1, says="no such backup")
        self.restore("--at", "sometime", status=1, says="no such backup")

    def test_nothing_there(self):
        for folder, says in ((self.to, "contains no backup"), (self.to + "/nosuch", "does not exist"),
                             (RESTORE, "is not a folder")):
            done = lib.attempt(RESTORE, "--list", folder)
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertRegex(done.stderr, f"\\Afleecefs-restore: \\S+ {says}\n\\Z")
            self.restore(folder=folder, status=1, says=says)

    def test_output(self):
        """What is not a file or a block device is not replaced, and nothing is begun that cannot end."""
        self.store("a/vda", 1, 0, restore_point="a")
        folder, fifo, other = self.mkdir("folder"), self.path("fifo"), self.path("link")
        os.mkfifo(fifo)
        os.symlink(fifo, other)
        for output, says in ((fifo, "is neither a file nor a block device"),
                             (other, "is neither a file nor a .*"),
                             (folder, f"is a folder; .* such as {folder}/disk.qcow2"),
                             (folder + "/none/x", f"there is no folder {folder}/none"),
                             (RESTORE + "/x", f"there is no folder {RESTORE}")):
            for force in ([], ["--force"]):
                done = lib.attempt(RESTORE, *force, self.to, output)
                self.assertEqual((done.returncode, done.stdout), (1, ""))
                self.assertRegex(done.stderr, f"\\Afleecefs-restore: {output}:? {says}\n\\Z")
        self.assertTrue(stat.S_ISFIFO(os.stat(fifo).st_mode))
        self.assertTrue(os.path.islink(other))
        self.assertEqual(os.listdir(folder), [])
        for words in ((self.to, ""), ("", "x"), ("--list", ""), ("--at", "", self.to, "x")):
            done = lib.attempt(RESTORE, *words)
            self.assertEqual((done.returncode, done.stdout), (2, ""))
            self.assertRegex(done.stderr, "\nfleecefs-restore: error: .* is empty\n\\Z")

    def test_generation_without_its_image(self):
        home = os.path.dirname(self.store("a/vda", 1, 0, restore_point="a"))
        with open(self.to + "/a/vm.json", "w") as f:
            json.dump({"version": 1, "disks": {"vda": {"mode": "full", "restore_point": "a"}}}, f)
        self.assertNotIn("DAMAGED", self.list())
        os.unlink(home + "/disk.qcow2")
        self.assertEqual(self.list(status=1), f"DAMAGED  {home}  it has no image\n")
        self.restore(status=1, says="no such backup")

    def test_repository(self):
        os.mkdir(self.to + "/data")
        with open(self.to + "/config", "w"):
            pass
        for words in ([self.to, "x"], ["--list", self.to], ["--check", self.to]):
            done = lib.attempt(RESTORE, *words)
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertRegex(done.stderr, r"\Afleecefs-restore: \S+ is a repository: [^\n]*\n\Z")

    def test_program_that_is_missing(self):
        self.store("a/vda", 1, 0, restore_point="a")
        done = lib.attempt("/usr/bin/python3", RESTORE, self.to, self.dir + "/x",
                           env={**os.environ, "PATH": self.to})
        self.assertEqual((done.returncode, done.stderr),
                         (1, "fleecefs-restore: qemu-img is not installed\n"))

    def test_only_unknown_files(self):
        with open(self.to + "/moved.qcow2", "w"):
            pass
        done = lib.attempt(RESTORE, "--list", self.to)
        self.assertRegex(done.stdout, r"\Aunknown  .*/moved.qcow2  .*\n\Z")
        self.assertEqual((done.returncode, done.stderr),
                         (1, f"fleecefs-restore: {self.to} contains no backup\n"))

    def test_stdout_that_cannot_be_written(self):
        self.store("a/vda", 1, 0, restore_point="a")
        for words in (["--list", self.to], ["--list", "--json", self.to], ["--check", self.to], ["--help"]):
            with open("/dev/full", "w") as full:
                done = lib.attempt(RESTORE, *words, stdout=full)
            self.assertEqual((done.returncode, done.stderr),
                             (1, "fleecefs-restore: stdout: No space left on device\n"), words)
            ours, theirs = os.pipe()
            os.close(ours)
            with open(theirs, "w") as closed:
                self.assertEqual(lib.attempt(RESTORE, *words, stdout=closed).stderr, "")

    def test_unknown_files_are_listed(self):
        full = self.store("a/vda", 1, 0, restore_point="a")
        shutil.copy(full, self.to + "/a/moved.qcow2")
        os.symlink("/etc", self.to + "/link")
        said = self.list()
        self.assertRegex(said, "unknown  .*/a/moved.qcow2  unknown: neither")
        self.assertRegex(said, "unknown  .*/link  a symbolic link")
        listed = json.loads(self.list("--json"))
        self.assertEqual([len(listed[k]) for k in ("images", "damaged", "unknown")], [1, 0, 2])
        self.assertTrue(self.restore() == self.disk(c0=1))

    def test_host_files_stay_out(self):
        secret = self.path("secret")
        with open(secret, "wb") as f:
            f.write(b"TOPSECRET-HOSTFILE" * 4096)
            f.truncate(SIZE)
        path = self.store("a/vda", 1, 0, restore_point="a")
        outside = self.path("outside")
        lib.run("qemu-img", "create", "-q", "-f", "qcow2", "-o",
                f"data_file={outside},data_file_raw=on", path, SIZE)
        shutil.copy(secret, outside)
        self.restore(status=1, says="its data is in another file")
        lib.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret, path, SIZE)
        self.restore(status=1, says="has a backing file")
        # An increment may name one, which is ignored.
        self.store("b/vda", 2, 1, base="a", restore_point="b")
        lib.run("qemu-img", "rebase", "-u", "-F", "raw", "-b", secret,
                self.to + "/b/vda/dirty/last.qcow2")
        lib.run("qemu-img", "create", "-q", "-f", "qcow2", path, SIZE)
        self.assertTrue(self.restore() == self.disk(c1=2))
        shutil.rmtree(self.to + "/b")
        os.unlink(path)
        for name in ("disk.raw", "disk.qcow2"):
            os.symlink(secret, f"{self.to}/a/vda/{name}")
            self.restore(status=1, says="symbolic link")
            self.restore("--at", "a", status=1, says="no such backup")
            os.unlink(f"{self.to}/a/vda/{name}")
        os.mkfifo(self.to + "/a/vda/disk.raw")
        self.restore(status=1, says="not a regular file")
        os.unlink(self.to + "/a/vda/disk.raw")
        # A raw disk that looks like a qcow2 is restored as raw.
        shutil.copy(secret, self.to + "/a/vda/disk.raw")
        lib.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret,
                self.to + "/a/vda/disk.raw", SIZE)
        os.truncate(self.to + "/a/vda/disk.raw", SIZE)
        self.assertTrue(self.restore().startswith(b"QFI\xfb"))

    def test_odd_json(self):
        self.store("a/vda", 1, 0, restore_point="a")
        good = '{"size": 1048576, "contexts": [], "point_in_time": "", "restore_point": "a"}'
        for text in ("", "[]", "null", "[" * 200000, '{"size": "x"}', '{"size": -1}', '{"size": true}',
                     '{"size": 1e400}', '{"size": 99999999999999999999999}', "\xff", '{"a": NaN,',
                     '{"size": 1048576, "contexts": {}}', '{"size": 1048576, "restore_point": []}',
                     '{"size": 1048576, "vm": 5}', '{"size": 1048576, "vm": {"uuid": []}}'):
            with open(self.to + "/a/vda/info.json", "w", encoding="latin-1") as f:
                f.write(text)
            self.restore(status=1, says="is damaged: |of a disk of")
            self.assertNotIn("Traceback", lib.attempt(RESTORE, "--list", self.to).stderr)
        with open(self.to + "/a/vda/info.json", "w") as f:
            f.write(good.replace('""', r'"\u001b]0;pwned\u0007\u202e2026"'))
        self.assertIn(r"\x1b]0;pwned\x07\u202e2026  vda  a  ", self.list())
        os.unlink(self.to + "/a/vda/info.json")
        os.symlink("/etc/passwd", self.to + "/a/vda/info.json")
        self.restore(status=1, says="symbolic link")

    def test_odd_maps(self):
        self.store("a/vda", 1, 0, restore_point="a")
        self.store("b/vda", 2, 1, form="raw", base="a", restore_point="b")
        self.assertTrue(self.restore() == self.disk(c0=1, c1=2))
        path = self.to + "/b/vda/dirty/last.ddrescue"
        for text in ("", "0x0 + 1\n", "0x0 + 1\n0x0 0x100000\n", "0x0 + 1\n0x0 0x200000 +\n",
                     "0x0 + 1\n0x0 -0x10 +\n0x0 0x100000 +\n",
                     "0x0 + 1\n0x0 0x300000 +\n0x300000 -0x200000 ?\n", "0x0 + 1\n0x10 0x100000 +\n",
                     "0x0 + 1\n0x0 0xfffffffffffffffffffffffffff +\n", "\xff" * 100):
            with open(path, "w", encoding="latin-1") as f:
                f.write(text)
            self.restore(status=1, says="last.ddrescue is damaged")
        os.unlink(path)
        os.symlink("/etc/passwd", path)
        self.restore(status=1, says="last.ddrescue is damaged: it is a symbolic link")

    def test_image_of_a_running_vm(self):
        self.store("a/vda", 1, 0, restore_point="a")
        vm = Vm(self, [Disk(self, "vda", size=SIZE)])
        image = vm.disks["vda"].image
        before = os.stat(image)
        done = lib.attempt(RESTORE, "--force", self.to, image)
        self.assertEqual(done.returncode, 1)
        self.assertRegex(done.stderr, "vda.qcow2 is in use: a VM runs with it")
        self.assertEqual(os.stat(image).st_ino, before.st_ino)
        vm.kill()
        lib.run(RESTORE, "--force", self.to, image)
        lib.run("qemu-img", "compare", image, self.to + "/a/vda/disk.qcow2")
        done = lib.attempt(RESTORE, "--force", self.to, self.to + "/a/vda/disk.qcow2")
        self.assertRegex(done.stderr, "is part of the backup")
        self.assertEqual(done.returncode, 1)

    def test_long_chain(self):
        """Longer than the nesting limits of Python and QEMU, with compressed and raw increments."""
        length, expected = 1100, {"c0": 1}
        self.store("0/vda", 1, 0, restore_point="0")
        model = self.store("model/vda", 2, 1, base="x", restore_point="y")
        zero = self.path("zero")
        lib.run("qemu-img", "create", "-q", "-f", "qcow2", zero, SIZE)
        qemu_io(zero, ["write -z 65536 64k", "write -P 5 131072 64k"])
        compressed = self.path("compressed")
        lib.run("qemu-img", "create", "-q", "-f", "qcow2", compressed, SIZE)
        qemu_io(compressed, ["write -c -P 6 262144 64k"])
        odd = {300: (zero, {"c1": 0, "c2": 5}), 900: (compressed, {"c4": 6})}
        for number in range(1, length):
            path, changes = odd.get(number, (model, {"c1": 2}))
            if number in (length // 2, length - 1):
                changes = {"c3": number % 251}
                self.store(f"{number}/vda", number % 251, 3, form="raw", base=str(number - 1),
                           restore_point=str(number))
            else:
                home = f"{self.to}/{number}/vda"
                os.makedirs(home + "/dirty")
                shutil.copy(path, home + "/dirty/last.qcow2")
                with open(home + "/info.json", "w") as f:
                    json.dump({"size": SIZE, "contexts": [{"bitmap": "last", "base": "x"}],
                               "base": str(number - 1), "restore_point": str(number)}, f)
            expected.update(changes)
        shutil.rmtree(self.to + "/model")
        self.assertTrue(self.restore() == self.disk(**expected))
        self.assertEqual(self.list().count("\n"), length)
        self.assertTrue(self.restore("--at", "300") == self.disk(c0=1, c1=0, c2=5))
        shutil.rmtree(self.to + "/0")
        self.assertEqual(self.list(status=1).count("BROKEN"), length - 1)
        self.restore(status=1, says="which is missing")

    def test_pieces(self):
        expected = self.disk(c3=7, c15=9)
        split = self.pieces("a/vda", restore_point="a")
        self.assertTrue(self.restore() == expected)
        out = self.path("out")
        lib.run(RESTORE, "-O", "raw", self.to, out)
        self.assertLess(os.stat(out).st_blocks * 512, SIZE // 2)
        lib.run(RESTORE, "--force", self.to, out)
        lib.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", out, out + ".raw")
        with open(out + ".raw", "rb") as f:
            self.assertTrue(f.read() == expected)
        # Pieces can be the base of an increment.
        self.store("b/vda", 5, 1, base="a", restore_point="b")
        self.assertTrue(self.restore() == self.disk(c1=5, c3=7, c15=9))
        shutil.rmtree(self.to + "/b")
        # An unaligned size, and invalid pieces.
        shutil.rmtree(self.to + "/a")
        self.pieces("a/vda", expected[:-1000], restore_point="a")
        self.assertTrue(self.restore() == expected[:-1000])
        shutil.rmtree(self.to + "/a")
        self.pieces("a/vda", b"", restore_point="a")
        self.assertEqual(self.restore(), b"")

        shutil.rmtree(self.to + "/a")
        self.pieces("a/vda", restore_point="a")
        def cut():
            os.truncate(split + "/000001", 65536)

        def fill_up():
            os.truncate(split + "/000007", 1 << 20)

        for break_it, says in (
                (lambda: os.unlink(split + "/000001"), "piece 000001 is missing"),
                (lambda: os.unlink(split + "/000007"), "pieces are 917504 bytes, not 1048576"),
                (cut, "piece 000002 is not 131072 bytes long"),
                (fill_up, "piece 000007 is not 131072 bytes long"),
                (lambda: os.mkdir(split + "/x"), "x is not a piece"),
                (lambda: os.rename(split + "/000001", split + "/1"), "piece 000001 is missing"),
                (lambda: os.symlink("/etc/passwd", split + "/000008"), "symbolic link")):
            shutil.rmtree(self.to + "/a")
            self.pieces("a/vda", restore_point="a")
            break_it()
            self.restore(status=1, says=says)

    def test_pieces_to_a_device(self):
        if os.geteuid() != 0 or not os.path.exists("/dev/loop-control"):
            self.skipTest("needs loop devices")
        self.pieces("a/vda", restore_point="a")
        old = self.path("old")
        with open(old, "wb") as f:
            f.write(b"\xee" * SIZE)
        done = lib.attempt("losetup", "--find", "--show", old)
        if done.returncode != 0:
            self.skipTest(done.stderr)
        device = done.stdout.strip()
        self.defer(lib.run, "losetup", "--detach", device)
        lib.run(RESTORE, "--force", self.to, device)
        with open(device, "rb") as f:
            self.assertTrue(f.read() == self.disk(c3=7, c15=9))

    def test_circle(self):
        for name, base in (("a", "c"), ("b", "a"), ("c", "b")):
            self.store(f"{name}/vda", 1, 0, base=base, restore_point=name)
        self.restore("--at", "a", status=1, says="based on itself")
        self.assertEqual(self.list(status=1).count("BROKEN"), 3)


if __name__ == "__main__":
    lib.main()
