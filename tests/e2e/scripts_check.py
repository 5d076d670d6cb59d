#!/usr/bin/env python3
"""--verify compares backups with the snapshot, --check finds damage later; damaged ones are never a base."""
import contextlib
import hashlib
import json
import os
import shutil
import socket
import struct
import sys
import tarfile
import threading
from unittest import mock

import lib
import scripts

sys.path.append(lib.TOP + "/contrib")
sys.dont_write_bytecode = True
from fleecefs_backups import commands, define, machine, making, stored, sums  # noqa: E402

RESTORE = scripts.RESTORE


def flip(path, at=None):
    """Changes a byte in the middle of a file, or AT an offset."""
    os.chmod(path, 0o644)
    with open(path, "r+b") as f:
        f.seek(os.path.getsize(path) // 2 if at is None else at)
        byte = f.read(1)
        f.seek(-1, os.SEEK_CUR)
        f.write(bytes([byte[0] ^ 1]))


class Verify(scripts.Base):
    def corrupt(self, program, script):
        """Replaces PROGRAM by SCRIPT, which changes what is stored."""
        path = self.env["PATH"].split(":")[0] + "/" + program
        with open(path, "w") as f:
            f.write(f"#!/bin/sh\nreal={shutil.which(program)}\n{script}\n")
        os.chmod(path, 0o755)
        return path

    # Changes one byte of the new generation when its file system is synced.
    ON_SYNC = r"""
f=$(find "$2" \( -path '*.part/*' -o -path '*.partial/*' -o -name '.*.part' \) -type f -size +64k -links 1 |
    sort | head -n 1)
[ -z "$f" ] || { chmod u+w "$f"; at=$(($(stat -c %s "$f") / 2))
    printf '\125' | dd of="$f" bs=1 seek=$at conv=notrunc 2>/dev/null; }
exec $real "$@" """
    # Changes one byte of the output, for tools whose repositories verify their data.
    ON_READ = r"""
case "$*" in *dump*/*|*export-tar*) $real "$@" | python3 -c '
import sys
data = bytearray(sys.stdin.buffer.read())
data[len(data) // 2] ^= 1
sys.stdout.buffer.write(data)';; *) exec $real "$@";; esac"""

    def check(self, tool, program, script, says="differs from the snapshot"):
        vm, to = self.vm("vda"), self.repository(tool)
        vm.write("vda", 0, lib.MIB, 7)
        self.backup(vm, "--verify", tool=tool, to=to, says="vda full")
        vm.write("vda", 0, 2 * lib.MIB, 8)
        count = len(self.stored(tool, to))
        path = self.corrupt(program, script)
        self.backup(vm, "--verify", tool=tool, to=to, status=1, says=says)
        os.unlink(path)
        self.assertEqual(len(self.stored(tool, to)), count)
        self.backup(vm, "--verify=30", tool=tool, to=to, says="vda since")
        folder = self.extract(tool, to)
        newest = max(os.listdir(folder))
        self.assertTrue(self.restore(folder, "--at", newest) == vm.disks["vda"].model)

    def stored(self, tool, to):
        folder = self.extract(tool, to)
        names = os.listdir(folder)
        if folder != self.to + "/web":
            shutil.rmtree(folder)
        return names

    def test_qcow2(self):
        self.check("qcow2", "sync", self.ON_SYNC)

    def test_raw(self):
        self.check("raw", "sync", self.ON_SYNC)

    def test_tar(self):
        self.check("tar", "sync", self.ON_SYNC)

    def test_rsync(self):
        lib.require("rsync")
        self.check("rsync", "sync", self.ON_SYNC)

    def test_restic(self):
        self.check("restic", "restic", self.ON_READ, "differs|cannot be read back")

    def test_borg(self):
        self.check("borg", "borg", self.ON_READ, "differs|cannot be read back")


class Check(scripts.Base):
    def check(self, status, *says):
        done = lib.attempt(RESTORE, "--check", self.to)
        self.assertEqual((done.returncode, done.stderr), (status, ""), done.stdout)
        for regex in says:
            self.assertRegex(done.stdout, regex)
        return done.stdout

    def three(self, tool):
        vm = self.vm("vda")
        vm.write("vda", 0, lib.MIB, 7)
        names = []
        for n in range(3):
            names += self.backup(vm, tool=tool)
            vm.write("vda", 128 * lib.KIB * n, 128 * lib.KIB, 20 + n)
        return vm, names

    def test_chain(self):
        for tool in ("qcow2", "raw"):
            vm, names = self.three(tool)
            said = self.check(0, *(f"ok  web/{n}\n" for n in names))
            self.assertEqual(said.count("\n"), 3)
            path = f"{self.to}/web/{names[1]}/vda/dirty/last.{tool}"
            at = None if tool == "qcow2" else 1000
            flip(path, at)
            self.check(1, f"DAMAGED  web/{names[1]}/vda  .*last.{tool}.*checksum differs",
                       f"BROKEN  web/{names[2]}/vda.*{names[1]}.* is damaged", f"ok  web/{names[0]}\n")
            mark = f"{self.to}/web/{names[1]}/vda/DAMAGED"
            self.assertTrue(os.path.exists(mark))
            done = lib.attempt(RESTORE, "--list", self.to)
            self.assertEqual((done.returncode, done.stdout.count("BROKEN")), (1, 2), done.stdout)
            for name in names[1:]:
                self.restore(self.to, "--at", name, status=1, says="is damaged: .*remove .*DAMAGED")
            # The next backup is full and starts a new chain.
            self.backup(vm, tool=tool, says="(?s)a full backup, because vda: .*is damaged.*vda full")
            self.assertTrue(self.restore(self.to) == vm.disks["vda"].model)
            vm.write("vda", 0, 4096, 99)
            self.backup(vm, tool=tool, says="vda since")
            # With an intact copy, the mark is removed.
            flip(path, at)
            self.check(0)
            self.assertFalse(os.path.exists(mark))
            self.assertEqual(lib.attempt(RESTORE, "--list", self.to).returncode, 0)
            self.to = self.mkdir("another")

    def list(self, status):
        done = lib.attempt(RESTORE, "--list", "--json", self.to)
        self.assertEqual((done.returncode, done.stderr), (status, ""))
        return json.loads(done.stdout)["images"]

    def test_archives(self):
        """Checked without unpacking; a damaged one does not become a base."""
        vm, names = self.three("tar")
        names = [n.removesuffix(".tar") for n in names]
        self.check(0, *(f"ok  web/{n}.tar\n" for n in names))
        rows = self.list(0)
        points = [r["restore_point"] for r in rows]
        self.assertEqual([(r["generation"], r["disk"], r["base"], r["fault"]) for r in rows],
                         [(n, "vda", b, None) for n, b in zip(names, ["", *points])])
        self.assertRegex(lib.run(RESTORE, "--list", self.to),
                         rf"vda  {points[1]}  /\S+/{names[1]}.tar  increment on {points[0]}\n")
        self.restore(self.to, status=1, says="contains archives: unpack those .*tar -xf")
        # Stock tools can unpack them.
        out = self.mkdir("out")
        lib.run("tar", "-C", out, "-xf", f"{self.to}/web/{names[1]}.tar")
        lib.run("sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS", cwd=out)
        path = f"{self.to}/web/{names[1]}.tar"
        with open(path, "rb") as f:
            good = f.read()
        for harm, says in ((lambda: flip(path, good.index(bytes([20]) * 512)), "checksum differs"),
                           (lambda: os.truncate(path, len(good) // 2), "cannot be read to its end"),
                           (lambda: os.truncate(path, 100), "cannot be read")):
            harm()
            self.check(1, rf"DAMAGED  web/{names[1]}.tar  .*{says}", f"ok  web/{names[0]}.tar",
                       rf"BROKEN  web/{names[2]}.tar  it needs {names[1]}, which is damaged")
            self.assertTrue(os.path.exists(path + ".DAMAGED"))
            done = lib.attempt(RESTORE, "--list", self.to)
            self.assertEqual(done.returncode, 1)
            self.assertRegex(done.stdout, "BROKEN: it needs|DAMAGED")
            with open(path, "wb") as f:
                f.write(good)
        done = self.backup(vm, tool="tar", says="(?s)a full backup, because vda: .*is damaged.*vda full")
        self.assertEqual(len([n for n in done if n.endswith(".tar")]), 1)
        self.check(0)  # with an intact copy
        self.assertFalse(os.path.exists(path + ".DAMAGED"))
        os.unlink(path)
        self.check(1, rf"BROKEN  web/{names[2]}.tar  it needs {names[1]}, which is missing")

    def test_archives_made_to_harm(self):
        """Damaged archives: others are still listed, within bounded time and memory."""
        os.mkdir(self.to + "/web")
        bad = self.to + "/web/20260101T000000Z.tar"

        def header(kind, size, **fields):
            member = tarfile.TarInfo("vm.json")
            member.type, member.size = kind, size
            return bytearray(member.tobuf(tarfile.GNU_FORMAT))

        many = bytes(header(tarfile.XHDTYPE, 0)) * 5000
        sparse = header(tarfile.GNUTYPE_SPARSE, 0)
        sparse[386:482] = bytes(96)
        sparse[483:495] = b"\x80" + (1 << 60).to_bytes(11, "big")
        sparse[148:156] = b" " * 8
        sparse[148:156] = b"%06o\0 " % sum(sparse)
        for data, length in ((many, None), (bytes(header(tarfile.XHDTYPE, 1 << 40)), 2 << 40),
                             (bytes(sparse), 10240)):
            with open(bad, "wb") as f:
                f.write(data)
                f.truncate(length)
            done = lib.attempt(RESTORE, "--list", self.to)
            self.assertNotIn("Traceback", done.stderr)
            done = lib.attempt(RESTORE, "--check", self.to)
            self.assertNotIn("Traceback", done.stderr)
        # A hole of the archive itself.
        text = b"{}"
        big = tarfile.TarInfo("vda/disk.qcow2")
        big.size = 8 * lib.TIB
        with open(bad, "wb") as f:
            f.write(header(tarfile.REGTYPE, len(text)) + text.ljust(512, b"\0")
                    + big.tobuf(tarfile.GNU_FORMAT))
            f.truncate(9 * lib.TIB)
        done = lib.attempt(RESTORE, "--check", self.to)
        self.assertRegex(done.stdout, "DAMAGED .*vda/disk.qcow2 has 8796093022208 bytes, far more")
        os.unlink(bad + ".DAMAGED")
        said = {"version": 1, "vm": {"uuid": "u"}, "disks": {"vda": {"needs": [{}, 5]}}}
        text = json.dumps(said).encode()
        with open(bad, "wb") as f:
            f.write(header(tarfile.REGTYPE, len(text)) + text.ljust(512, b"\0") + bytes(1024))
        done = lib.attempt(RESTORE, "--list", self.to)
        self.assertRegex(done.stdout, "BROKEN: it needs")
        self.assertEqual((done.returncode, done.stderr), (1, ""))

    def test_pieces(self):
        """Never links to a damaged piece."""
        lib.require("rsync")
        vm, names = self.three("rsync")
        self.check(0, *(f"ok  web/{n}\n" for n in names))
        for name in names:
            lib.run("sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS",
                    cwd=f"{self.to}/web/{name}")
        piece = f"{self.to}/web/{names[2]}/vda/split/000000"
        flip(piece)
        linked = [n for n in names if os.path.samefile(f"{self.to}/web/{n}/vda/split/000000", piece)]
        said = self.check(1)
        self.assertEqual(said.count("DAMAGED"), len(linked), said)
        done = self.backup(vm, "--keep", "last=1", tool="rsync", says="is ignored and kept")
        self.assertFalse(os.path.samefile(f"{self.to}/web/{done[0]}/vda/split/000000", piece))
        self.assertTrue(self.restore(self.to) == vm.disks["vda"].model)

    def test_what_is_missing(self):
        _, names = self.three("qcow2")
        os.unlink(f"{self.to}/web/{names[0]}/vda/disk.qcow2")
        self.check(1, f"DAMAGED  web/{names[0]}/vda  it has no image")

    def test_odd_checksums(self):
        """Lists that name files outside, and invalid lists."""
        _, names = self.three("qcow2")
        path = f"{self.to}/web/{names[0]}/SHA256SUMS"
        with open(path) as f:
            said = f.read()
        for line, says in (("0" * 64 + "  ../../../etc/passwd\n", "names ../../../etc/passwd"),
                           ("0" * 64 + "  /etc/passwd\n", "names /etc/passwd"),
                           ("nonsense\n", "SHA256SUMS is damaged")):
            os.chmod(path, 0o644)
            with open(path, "w") as f:
                f.write(said + line)
            self.check(1, f"DAMAGED  web/{names[0]}.*{says}")

    def test_huge_holes(self):
        """Files of a few bytes and many terabytes: nobody waits for their checksums."""
        _, names = self.three("qcow2")
        full, last = (f"{self.to}/web/{name}" for name in (names[0], names[2]))
        for path in (f"{full}/vda/disk.qcow2", f"{last}/SHA256SUMS.sparse", f"{last}/extra"):
            with open(path, "ab" if path.endswith("qcow2") else "wb") as f:
                f.truncate(8 * lib.TIB)
        os.chmod(f"{last}/SHA256SUMS", 0o644)
        with open(f"{last}/SHA256SUMS", "a") as f:
            f.write("0" * 64 + "  extra\n")
        self.check(1, f"DAMAGED  web/{names[0]}/vda  .*much longer than its contents",
                   f"DAMAGED  web/{names[2]}  SHA256SUMS.sparse has {8 * lib.TIB} bytes, far more")
        os.unlink(f"{last}/SHA256SUMS.sparse")
        self.check(1, f"DAMAGED  web/{names[2]}  extra has {8 * lib.TIB} bytes, far more")

    def test_tables_without_end(self):
        """A qcow2 whose L1 table names one L2 table many times: qemu-img would follow each of them."""
        _, names = self.three("qcow2")
        path = f"{self.to}/web/{names[2]}/vda/dirty/last.qcow2"
        with open(path, "r+b") as f:
            # Version 2, clusters of 512 bytes; at 512 the refcounts, at 32 KiB the L1 table.
            f.truncate(0)
            f.write(struct.pack(">IIQIIQIIQQIIQ", 0x514649fb, 2, 0, 0, 9, 4 * lib.MIB, 0, 4096,
                                32 * lib.KIB, 512, 1, 0, 0))
            f.seek(32 * lib.KIB)
            f.write(struct.pack(">Q", 1 << 63 | 1024) * 4096)
        self.check(1, f"DAMAGED  web/{names[2]}/vda  .*its tables are invalid")
        with self.assertRaisesRegex(stored.Refused, "its tables are invalid"):
            making.check_file(self.image(path))

    def image(self, path):
        return next(i for i in stored.Stored(self.to).images if i.path == path)

    def test_tables_that_take_too_long(self):
        """qemu-img is killed, and the image is not trusted."""
        _, names = self.three("qcow2")
        image = self.image(f"{self.to}/web/{names[0]}/vda/disk.qcow2")
        making.check_file(image)
        folder = self.mkdir("slow")
        with open(folder + "/qemu-img", "w") as f:
            f.write(f'#!/bin/sh\necho $$ >"{folder}/pid"\nexec sleep 1000\n')
        os.chmod(folder + "/qemu-img", 0o755)
        with mock.patch.dict(os.environ, PATH=f"{folder}:{os.environ['PATH']}"), \
                mock.patch.object(making, "CHECK_SECONDS", 2), \
                self.assertRaisesRegex(stored.Refused, "qemu-img check takes more than 2 s"):
            making.check_file(image)
        if os.path.exists(folder + "/pid"):  # it may have been killed before
            with open(folder + "/pid") as f:
                self.assertFalse(os.path.exists("/proc/" + f.read().strip()))

    def test_state_with_a_huge_hole(self):
        """It is not copied to the host that restores."""
        for name in (machine.XML, machine.NVRAM, machine.TPM):
            with open(f"{self.to}/{name}", "wb") as f:
                f.truncate(8 * lib.TIB)
            with self.assertRaisesRegex(stored.Refused, f"{name} is damaged: it is too large"):
                define.open_part(self.to, name)

    def test_map_with_a_huge_hole(self):
        _, names = self.three("raw")
        path = f"{self.to}/web/{names[1]}/vda/dirty/last.ddrescue"
        os.truncate(path, 8 * lib.TIB)
        self.restore(self.to, "--at", names[1], status=1, says="last.ddrescue is damaged: it is too large")
        self.check(1, f"DAMAGED  web/{names[1]}/vda  last.ddrescue has .* bytes, far more than")

    def test_nothing_there(self):
        done = lib.attempt(RESTORE, "--check", self.to)
        self.assertEqual((done.returncode, done.stderr),
                         (1, f"fleecefs-restore: {self.to} contains no backup\n"))


class Sums(lib.TestCase):
    def test_sparse(self):
        """The checksum depends on the contents, not on holes, and its time on the amount of data."""
        path, other = self.path("disk.raw"), self.path("other.raw")
        with open(path, "wb") as f:
            f.truncate(lib.TIB + 7)
            f.seek(lib.GIB + 5)
            f.write(b"x")
            f.seek(lib.TIB)
            f.write(bytes(3 * lib.MIB))
            f.truncate(lib.TIB + 7)
        lib.run("cp", "--sparse=always", path, other)
        self.assertEqual(sums.of_file(path), sums.of_file(other))
        expected = hashlib.sha256(struct.pack(">QQ", lib.TIB + 7, lib.GIB))
        expected.update(b"\0" * 5 + b"x" + bytes(lib.MIB - 6))
        self.assertEqual(sums.of_file(path), expected.hexdigest())
        for at in (lib.GIB + 5, 0, lib.TIB + 6):
            flip(other, at)
            self.assertNotEqual(sums.of_file(other), expected.hexdigest())
            flip(other, at)
        os.truncate(other, lib.TIB)
        self.assertNotEqual(sums.of_file(other), expected.hexdigest())


class Machine(scripts.Base):
    def test_monitors_made_to_harm(self):
        """That send events without end, or a line without end, or nothing."""
        path = self.path("monitor")
        for flood in (b'{"event": "RTC_CHANGE"}\n', b"[", b""):
            with socket.socket(socket.AF_UNIX) as listener, mock.patch.object(machine, "PATIENCE", 0.5):
                listener.bind(path)
                listener.listen()

                def serve():
                    client = listener.accept()[0]
                    with client, contextlib.suppress(OSError):
                        client.sendall(b"{}\n")
                        while flood:
                            client.sendall(flood * 1000)
                        client.recv(65536)
                        client.recv(1)

                thread = threading.Thread(target=serve, daemon=True)
                thread.start()
                with self.assertRaises((OSError, commands.Failed)):
                    machine.Monitor(path)
                thread.join(lib.PATIENCE)
                self.assertFalse(thread.is_alive())
            os.unlink(path)

    def test_qemu_without_libvirt(self):
        """QEMU's answers are stored in each backup, whatever the tool."""
        for tool in ("qcow2", "tar", "rsync", "restic", "borg"):
            vm, to = self.vm("vda"), self.repository(tool)
            self.backup(vm, tool=tool, to=to)
            folder = self.extract(tool, to)
            with open(f"{folder}/{os.listdir(folder)[0]}/vm.qmp.json") as f:
                said = json.load(f)
            self.assertEqual(said["version"], 1)
            self.assertEqual(len(said["query-block"]), 1)
            self.assertEqual(said["query-target"], {"arch": "x86_64"})
            done = lib.attempt(RESTORE, "--define", folder, self.dir + "/vm")
            self.assertRegex(done.stderr, "has no vm.xml.*restore its disks one by one")
            self.assertEqual(done.returncode, 1)
            self.to = self.mkdir("another")


if __name__ == "__main__":
    lib.main()
