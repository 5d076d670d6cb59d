#!/usr/bin/env python3
"""What --status shows: a page for people, on terminals of any width and in pipes; and as JSON."""
import errno
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios
import unicodedata

import disks
import lib
from nbdserver import DIRTY, Export, NbdServer

# They would clear the screen, set its title, write from right to left, and forge a line.
HOSTILE = ["\033[2Jesc", "\x9b2Jcsi", "\033]0;title\a", "\u202egnihton", "a\nSTATE ok", "\x7f\x01",
           "\u2028\u200e", "wide \u6f22\u5b57 \u00e4"]
BAR = r"\[(#*)(-*)\] +(\d+)%"


class Status(lib.TestCase):
    def page(self, mount, columns=None, json_too=False, status=0):
        """What --status prints: into a pipe, or on a terminal of so many COLUMNS."""
        argv = [*lib.FLEECEFS, "--status" + "=json" * json_too, mount.point]
        if columns is None:
            done = lib.attempt(*argv)
            self.assertEqual((done.returncode, done.stderr), (status, ""))
            text = done.stdout
        else:
            ours, theirs = pty.openpty()
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 25, columns, 0, 0))
            with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=theirs) as process:
                os.close(theirs)
                said = b""
                try:
                    while more := os.read(ours, 65536):
                        said += more
                except OSError as error:  # all is read, and nobody writes any more
                    self.assertEqual(error.errno, errno.EIO)
                os.close(ours)
            self.assertEqual(process.returncode, status)
            text = said.decode().replace("\r\n", "\n")
        self.assert_harmless(text)
        return text

    def assert_harmless(self, text):
        for c in text.replace("\n", ""):
            self.assertNotIn(unicodedata.category(c), ("Cc", "Cf", "Zl", "Zp", "Cn"), repr(c))

    @staticmethod
    def width(line):
        return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)

    @staticmethod
    def fields(page):
        """The lines of the only disk by their first word."""
        return dict(re.findall(r"^  (\S+(?: \S+)*) {2,}(\S.*)$", page, re.M))

    def image(self, dirty="write -q 0 1M"):
        image = disks.create(self.path("vm.qcow2"), 4 * lib.MIB)
        disks.qemu_io(image, ["write -q 2M 2M"])
        lib.run("qemu-img", "bitmap", "--add", image, "b")
        disks.qemu_io(image, [dirty])
        return image

    def read(self, mount, name, length, offset=0):
        fd = os.open(mount / name, os.O_RDONLY | os.O_DIRECT)
        try:
            self.assertEqual(len(os.pread(fd, length, offset)), length)
        finally:
            os.close(fd)

    def test_page(self):
        image = self.image()
        vm = os.path.basename(image).removesuffix(".qcow2")
        with self.mount(image, options=["-o", "readahead=0"]) as mount:
            self.assertIn("not known", self.fields(self.page(mount))["data"])
            self.read(mount, vm + "/dirty/b.raw", lib.MIB // 2)
            self.read(mount, vm + "/disk.raw", lib.MIB, 2 * lib.MIB)
            page = self.page(mount)
            status = json.loads(self.page(mount, json_too=True))
        self.assertEqual(page.splitlines()[0].split(", since")[0],
                         f"{mount.point}: fleecefs {status['version']}, process {mount.pid}")
        self.assertIn(f"\n{vm}: 4.0 MiB, ok\n", page)
        fields = self.fields(page)
        self.assertRegex(fields["data"], BAR + "  1.5 MiB of 3.0 MiB read")
        self.assertRegex(fields["dirty"], BAR + "  512.0 KiB of 1.0 MiB read")
        for name in ("data", "dirty"):
            done, left, percent = re.search(BAR, fields[name]).groups()
            self.assertEqual((len(done), percent), (len(left), "50"))
        self.assertEqual(fields["source"], image)
        self.assertRegex(fields["point in time"], r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ")
        self.assertRegex(fields["reading"], r"^[\d.]+ [KMG]iB/s, 1.5 MiB from the server")
        self.assertRegex(fields["connections"], r"^\d+, 0 requests")
        self.assertEqual(fields["errors"], "none")
        self.assertGreater(status["exports"][0]["read_rate"], 0)

    def test_all_is_100_percent_and_less_never(self):
        with self.mount(self.image()) as mount:
            (vm,) = mount.folders()
            self.read(mount, vm + "/disk.raw", lib.MIB)
            self.read(mount, vm + "/disk.raw", 2 * lib.MIB - 4096, 2 * lib.MIB)
            fields = self.fields(self.page(mount))
            self.assertIn(" 99%", fields["data"])
            self.assertIn(" 100%", fields["dirty"])
        clean = disks.create(self.path("clean.qcow2"), lib.MIB, ["b"])
        with self.mount(clean) as mount:
            (vm,) = mount.folders()
            self.assertEqual(os.stat(mount / (vm + "/disk.raw")).st_blocks, 0)
            self.assertEqual(self.fields(self.page(mount))["dirty"], "none")

    def server(self, names):
        extents = [(0, 512, 1), (512, 4096, 0)]
        return NbdServer(self, {name: Export(4096, bytes(4096), {DIRTY + name: extents})
                                for name in names})

    def test_widths(self):
        for names in (HOSTILE[:3], HOSTILE):
            with self.mount(self.server(names).uri()) as mount:
                for folder in mount.folders():
                    self.read(mount, folder + "/disk.raw", 4096)
                for columns in (20, 40, 60, 80, 81, 200):
                    with self.subTest(disks=len(names), columns=columns):
                        page = self.page(mount, columns)
                        widest = max(page.splitlines(), key=self.width)
                        self.assertLessEqual(self.width(widest), max(columns, 70), widest)
                        for bar in re.findall(r"\[[#-]+\]", page):
                            self.assertLess(len(bar), columns)
                # Wide enough for all that has a bound.
                self.assertEqual(len(re.findall(BAR, self.page(mount, 80))) > 0, True)

    def test_hostile_names(self):
        """assert_harmless() has looked; JSON still says what they are."""
        with self.mount(self.server(HOSTILE).uri()) as mount:
            for columns in (None, 80):
                page = self.page(mount, columns)
                self.assertIn("?[2Jesc ", page)
                self.assertNotRegex(page, r"(?m)^STATE ok")
                told = json.loads(self.page(mount, columns, json_too=True))
                self.assertEqual([disk["name"] for disk in told["exports"]], HOSTILE)

    def test_many_disks(self):
        server = self.server([f"disk{i}" for i in range(100)])
        with self.mount(server.uri()) as mount:
            mount.read("disk7/disk.raw", "rb")
            server.exports["disk3"].size = 8192
            self.assert_errno(errno.EIO, os.stat, mount / "disk3/disk.raw")
            page = self.page(mount, 80, status=1)
        rows = re.findall(r"^disk\d+ .*$", page, re.M)
        self.assertEqual(len(rows), 100)
        self.assertRegex(rows[7], r"^disk7 +4\.0 KiB +512 bytes +\[#+\] 100% .* ok$")
        self.assertTrue(rows[3].endswith(" FAILED"))
        self.assertIn("\ndisk3: 4.0 KiB, FAILED\n", page)
        self.assertLess(page.count("\n"), 130)

    def test_a_disk_that_failed(self):
        server = self.server(["vda"])
        with self.mount(server.uri(), options=["-o", "reconnect=0"]) as mount:
            server.stop()
            self.assert_errno(errno.EIO, os.stat, mount / "vda/disk.raw")
            page = self.page(mount, status=1)
            self.page(mount, json_too=True, status=1)
        self.assertIn("\nvda: 4.0 KiB, FAILED\n", page)
        fields = self.fields(page)
        self.assertEqual(fields["errors"], "all reads fail")
        self.assertIn(server.path, fields["failure"])
        self.assertIn("fleecefs --abort " + mount.point, fields["to do"])

    def test_reads_that_the_server_refuses(self):
        server = self.server(["vda"])

        def refuse(offset, length):
            raise OSError(errno.EIO, "no")
        server.exports["vda"].on_read = refuse
        with self.mount(server.uri()) as mount:
            self.assert_errno(errno.EIO, self.read, mount, "vda/disk.raw", 4096)
            page = self.page(mount)
        self.assertIn("ok, with errors", page)
        self.assertRegex(self.fields(page)["errors"], r"^\d+ reads were refused")


if __name__ == "__main__":
    lib.main()
