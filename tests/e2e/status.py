#!/usr/bin/env python3
"""Output of --status: a page for terminals of any width and for pipes, and JSON."""
import errno
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import termios
import time
import unicodedata

import disks
import lib
from nbdserver import DIRTY, Export, NbdServer

# Clear the screen, set the title, write from right to left, forge a line.
HOSTILE = ["\033[2Jesc", "\x9b2Jcsi", "\033]0;title\a", "\u202egnihton", "a\nSTATE ok", "\x7f\x01",
           "\u2028\u200e", "wide \u6f22\u5b57 \u00e4"]
BAR = r"\[(#*)(-*)\] +(\d+)%"


def setUpModule():
    lib.private_mounts()  # for --list


class Status(lib.TestCase):
    def page(self, mount, columns=None, json_too=False, status=0):
        """Returns the output of --status to a pipe, or to a terminal of COLUMNS columns."""
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
                except OSError as error:  # end of output
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
        """Returns the fields of the only disk by name."""
        return dict(re.findall(r"^  (\S+(?: \S+)*) {2,}(\S.*)$", page, re.M))

    def image(self, dirty="write -q 0 1M"):
        image = disks.create(self.path("vm.qcow2"), 4 * lib.MIB)
        disks.qemu_io(image, ["write -q 2M 2M"])
        lib.run("qemu-img", "bitmap", "--add", image, "b")
        disks.qemu_io(image, [dirty])
        return image

    def read(self, mount, name, length, offset=0):
        self.assertEqual(len(lib.read_direct(mount / name, length, offset)), length)

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
                # At this width, all fields of bounded length fit.
                self.assertEqual(len(re.findall(BAR, self.page(mount, 80))) > 0, True)

    def test_hostile_names(self):
        """assert_harmless() checks pages; JSON has the exact names."""
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

    @staticmethod
    def status(mount):
        return mount.json(".fleecefs/status.json")

    def wait_for_limit(self, mount):
        """Waits until a read waits for the limit."""
        deadline = time.monotonic() + lib.PATIENCE
        while self.status(mount)["exports"][0]["requests_waiting"] == 0:
            self.assertLess(time.monotonic(), deadline)

    def rate(self, mount, rate):
        done = lib.attempt(*lib.FLEECEFS, f"--rate={rate}", mount.point)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))

    def test_rate(self):
        """A reader delayed by the limit continues when it is lifted, and gets correct data."""
        data = os.urandom(8 * lib.MIB)
        raw = self.path("vm.raw")
        with open(raw, "wb") as f:
            f.write(data)
        out = open(self.path("out"), "w+b")
        self.defer(out.close)
        with self.mount(raw, options=["-o", "rate=1K/s,readahead=0"]) as mount:
            disk = mount.folders()[0] + "/disk.raw"
            self.assertIn("reads limited to 1.0 KiB/s", self.page(mount))
            self.assertEqual(self.status(mount)["rate_limit"], 1024)
            cat = subprocess.Popen(["cat", mount / disk], stdout=out,
                                   preexec_fn=lib.die_with_us)
            self.wait_for_limit(mount)
            self.assertLess(self.status(mount)["exports"][0]["bytes_read"], 4 * lib.MIB)
            self.assertIsNone(cat.poll())
            self.rate(mount, "10M")
            self.assertEqual(self.status(mount)["rate_limit"], 10 * lib.MIB)
            self.rate(mount, 0)
            self.assertEqual(cat.wait(timeout=lib.PATIENCE), 0)
            self.assertNotIn("limited", self.page(mount))
            self.assertNotIn("rate_limit", self.status(mount))
            out.seek(0)
            self.assertTrue(out.read() == data)
            # A waiting read does not delay the unmount.
            self.rate(mount, "1")
            self.read(mount, disk, 4096)
            waiting = subprocess.Popen(["dd", f"if={mount / disk}", "iflag=direct", "bs=4096",
                                        "count=1"], stderr=subprocess.DEVNULL,
                                       preexec_fn=lib.die_with_us)
            self.wait_for_limit(mount)
            self.assertEqual(lib.attempt(*lib.FLEECEFS, "--abort", mount.point).returncode, 0)
            self.assertEqual(waiting.wait(timeout=lib.PATIENCE), 1)
        for wrong in (["--rate=fast", raw], ["--rate=1M"], ["--rate=1M", raw, raw]):
            done = lib.attempt(*lib.FLEECEFS, *wrong)
            self.assertIn(done.returncode, (1, 2))
        gone = lib.attempt(*lib.FLEECEFS, "--rate=1M", self.dir)
        self.assertEqual(gone.returncode, 1)
        self.assertIn("is not a fleecefs mount", gone.stderr)

    def test_reads_that_the_server_refuses(self):
        server = self.server(["vda"])

        def refuse(offset, length):
            raise OSError(errno.EIO, "no")
        server.exports["vda"].on_read = refuse
        with self.mount(server.uri()) as mount:
            self.assert_errno(errno.EIO, self.read, mount, "vda/disk.raw", 4096)
            page = self.page(mount, status=1)
            listed = lib.attempt(*lib.FLEECEFS, "--list")
            self.assertEqual(listed.returncode, 1)
            self.assertRegex(listed.stdout, rf"(?m)^{re.escape(mount.point)} .* errors$")
        self.assertIn("ok, with errors", page)
        self.assertRegex(self.fields(page)["errors"], r"^\d+ reads refused")


if __name__ == "__main__":
    lib.main()
