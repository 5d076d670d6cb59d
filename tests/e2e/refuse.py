#!/usr/bin/env python3
"""Bad input: one clear line, exit status 1 or 2, and nothing left behind."""
import contextlib
import os
import shutil
import stat

import disks
import lib
from nbdserver import Export, HangUp, NbdServer


class Refuse(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.point = self.mkdir("mnt")
        self.scratch = self.mkdir("tmp")
        for name, value in (("TMPDIR", self.scratch), ("XDG_RUNTIME_DIR", self.scratch),
                            ("FLEECEFS_TEST", self.dir)):
            os.environ[name] = value
            self.defer(os.environ.pop, name)

    def left(self):
        """Returns processes started by this test other than its own servers."""
        found = set()
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as f:
                if f"FLEECEFS_TEST={self.dir}".encode() in f.read().split(b"\0"):
                    found.add(int(pid))
        return found - set(self.servers)

    def refused(self, *args, point=None, status=1, says=()):
        self.assert_refused(*args, point or self.point, status=status, says=says)
        self.assertFalse(lib.is_mounted(self.point))
        self.assertEqual(os.listdir(self.scratch), [], "temporary files left")
        self.assertEqual(self.left(), set(), "processes left")

    def disk(self, **kwargs):
        return disks.create(os.path.join(self.dir, "vm.qcow2"), size="4M", **kwargs)

    # Usage

    def test_usage(self):
        for args in ([], ["only-one"], ["--no-such-option", "a", "b"], ["-o", "cache=x", "a", "b"],
                     ["[", "nbdkit", "memory", "1M", "/mnt"], ["-C", "0", "a", "b"],
                     ["-o", "sync_read", "a", "b"], ["--status", "a", "b"],
                     ["-C0", "a", "b"], ["-ocache=x", "a", "b"], ["--backing=", "a", "b"],
                     ["a", ""], ["", "b"], ["x=", "b"], ["--status", ""], ["--abort", ""],
                     ["--force", "a", "b"], ["--force", "--abort", "b"], ["--pidfile=", "a", "b"],
                     ["--series=", "a", "b"], ["--series=a/b", "--recover", "qmp:a"]):
            done = self.fleecefs(*args)
            self.assertEqual(done.returncode, 2, f"{args}: {done.stderr}")
            self.assertRegex(done.stderr, r"\Afleecefs: [^\n]+\n\Z")

    def test_values(self):
        """Values that another program would refuse with a message of its own, and empty ones."""
        for option, says in (("fsname=", "option 'fsname=' needs a value"), ("scratch=", "option scratch: "),
                             ("max_read=x", "option 'max_read=x'"), ("agent=", "option agent: the path")):
            self.refused("-o", option, "qmp:/nosuch", status=2, says=[says])

    def test_snapshot_options_of_other_sources(self):
        """Options that would be ignored are refused."""
        for option in ("--since=x", "--full", "--agent=/nosuch", "--agent_optional", "--disk=vda",
                       "--freeze_timeout=3", "--scratch=/nosuch"):
            self.refused(option, self.disk(), status=2,
                         says=["option " + option[2:].split("=")[0], "qmp:PATH"])
        self.assert_refused("--status=xml", self.point, status=2, says=["--status=json"])

    def test_words_for_what_is_written_wrongly(self):
        image, folder = self.disk(), self.mkdir("other")
        self.assert_refused(folder, image, says=[image, "give the source first"])
        self.refused("web", says=["no such file", "libvirt:web"])
        self.refused("[nbdkit", "memory", "1G]", status=2, says=["a space after '['"])
        self.refused("sh", "memory", says=["use brackets: [ sh ARGS"])
        self.refused("http://host/disk", status=2, says=["[ nbdkit curl URL ]"])

    def in_dev_of_its_own(self, *command, fuse, conf="/etc/fuse.conf"):
        """Runs COMMAND with a /dev that has no fuse or one for all users, as udev makes it, and with
        CONF as /etc/fuse.conf."""
        devices = [("null", 666, 1, 3), ("urandom", 444, 1, 9)] + [("fuse", 666, 10, 229)] * fuse
        script = " && ".join(["mount -t tmpfs none /dev", f"mount --bind {conf} /etc/fuse.conf",
                              *(f"mknod -m {mode} /dev/{name} c {major} {minor}"
                                for name, mode, major, minor in devices), 'exec "$@"'])
        done = lib.attempt("unshare", "--mount", "sh", "-c", script, "sh", *command)
        if "tmpfs" in done.stderr or "unshare" in done.stderr:
            self.skipTest(done.stderr)
        self.assertEqual(done.returncode, 1, done.stderr)
        return done.stderr

    def test_no_fuse(self):
        """As in a container without /dev/fuse."""
        said = self.in_dev_of_its_own(*lib.FLEECEFS, self.disk(), self.point, fuse=False)
        self.assertIn("/dev/fuse does not exist", said)
        self.assertIn("--device /dev/fuse", said)

    def try_as_nobody(self, *options, **kwargs):
        """Mounts as in a service of an unprivileged user, where fusermount3 does not work."""
        lib.require("setpriv")
        if os.geteuid() != 0:
            self.skipTest("needs root, to be somebody else")
        os.chmod(self.dir, 0o755)
        program, point = self.path("fleecefs"), self.mkdir("nobody")
        shutil.copy(lib.FLEECEFS[0], program)
        shutil.chown(point, "nobody")
        image = self.disk()
        os.chmod(image, 0o644)
        said = self.in_dev_of_its_own(
            "setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--no-new-privs",
            "env", "TMPDIR=" + point, "XDG_RUNTIME_DIR=" + point, program, *options, image, point,
            fuse=True, **kwargs)
        self.assertFalse(lib.is_mounted(point))
        return said

    def test_no_new_privileges(self):
        self.assertIn("fusermount3 gets no privileges under NoNewPrivileges", self.try_as_nobody())

    def test_allow_other(self):
        for text, permitted in (("#user_allow_other\n", False), ("x\n user_allow_other \n", True)):
            conf = self.path("fuse.conf")
            with open(conf, "w") as f:
                f.write(text)
            for option in ("allow_other", "allow_root"):
                said = self.try_as_nobody("-o", option, conf=conf)
                if permitted:
                    self.assertIn("fusermount3 gets no privileges", said)
                else:
                    self.assertRegex(said, rf"\Afleecefs: option {option}: [^\n]*add the line "
                                     r"user_allow_other to /etc/fuse.conf[^\n]*\n\Z")

    # Sources

    def test_unreachable_server(self):
        path = os.path.join(self.dir, "nobody.sock")
        self.refused("nbd+unix:///?socket=" + path, says=["nobody.sock", "its socket does not exist"])
        self.refused("nbd://127.0.0.1:1/", says=["127.0.0.1"])
        host = "a" * 64  # no resolver is asked for such a name
        for uri, says in ((f"nbd://{host}/", "cannot be resolved"), ("nbd://127.0.0.1:99999", "99999"),
                          ("nbd+unix:///x?socket=", "socket= is empty"),
                          ("nbd+unix:///x", 'did you mean to use "nbd+unix:///?socket=')):
            self.refused(uri, says=[f"cannot connect to {uri}: ", says])
            self.assertNotIn("nbd_aio", self.fleecefs(uri, self.point).stderr)
        said = self.fleecefs("nbd+unix://me:secret@/?socket=/tmp/x y", self.point).stderr
        self.assertIn("write a blank as %20", said)
        self.assertNotIn("secret", said)
        # The address of a local VM that does not exist.
        self.assertNotIn("nbd_poll", self.fleecefs("--timeout=2", "nbd+vsock://99:2", self.point).stderr)

    def test_wrong_export_name_lists_those_there_are(self):
        server = NbdServer(self, {n: Export(512, bytes(512)) for n in ("vda", "vdb")})
        self.refused(server.uri("vdc"), says=["vdc", "vda", "vdb"])

    def test_server_without_exports(self):
        server = NbdServer(self, {})
        self.refused(server.uri(), says=[server.uri() + " has no exports: add one to the server"])
        self.refused(server.uri("vda"), says=['has no export "vda" and lists none: add one to the server'])
        # A server whose exports must be named, as one for which listing is disabled.
        server.refused = (3,)
        self.refused(server.uri(), says=["does not list its exports", "nbd+unix:///EXPORT?socket=PATH"])

    def test_server_that_hangs_up(self):
        """It has not refused the name."""
        server = NbdServer(self, {"vda": Export(512, bytes(512))})

        def hang_up(option):
            if option in ends:
                raise HangUp

        server.on_option = hang_up
        for ends in ({3, 6, 7}, {6, 7}):  # list, info and go
            self.refused(server.uri("vda"), says=[server.uri("vda"), "disconnected unexpectedly"])
            self.assertNotIn("has no export", self.fleecefs(server.uri("vda"), self.point).stderr)

    def test_not_an_nbd_server(self):
        self.refused("[", "sh", "-c", "exit 3", "]", says=["[ sh ] does not serve NBD on the socket",
                                                           "sh ended with status 3"])
        self.refused("[", os.path.join(self.dir, "missing"), "]", says=["missing"])

    def test_bad_uri(self):
        self.refused("nbd+nonsense://x/", says=["nbd+nonsense"])

    def test_missing_image(self):
        self.refused(os.path.join(self.dir, "missing.qcow2"), says=["missing.qcow2"])

    def test_folder_as_image(self):
        self.refused(self.mkdir("folder"), says=["folder"])

    def test_raw_disk_that_looks_like_a_qcow2(self):
        """With an explicit format, guest data must not select files of the host."""
        secret, disk = self.path("secret"), self.path("disk.raw")
        with open(secret, "wb") as f:
            f.write(b"secret" * 10000)
        lib.run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", secret, disk, "1M")
        os.truncate(disk, lib.MIB)
        # After an irrelevant option: the explicit format still applies.
        with self.mount(disk, options=["-o", "format=raw,series=y"]) as mount:
            with open(disk, "rb") as f:
                self.assertEqual(mount.read(f"{mount.folders()[0]}/disk.raw", "rb"), f.read())
        self.assert_refused("-o", "format=nosuch", disk, self.mkdir("mnt"), says=[
            "QEMU has no format of that name", "'nosuch'", "format=raw"])

    def test_broken_image(self):
        image = self.disk()
        for damage, at in ((b"\xff" * 8, 0x28), (b"\x7f\xff\xff\xff", 4), (b"\xff" * 8, 0x18)):
            with open(image, "rb") as f:
                whole = bytearray(f.read())
            whole[at:at + len(damage)] = damage
            broken = os.path.join(self.dir, "broken.qcow2")
            with open(broken, "wb") as f:
                f.write(whole)
            self.refused(broken, says=["broken.qcow2"])

    def test_truncated_image(self):
        image = self.disk()
        os.truncate(image, 50)
        self.refused(image, says=["vm.qcow2"])
        # Cuts off its bitmap directory.
        image = disks.create(self.path("cut.qcow2"), 64 * lib.MIB, ["b"])
        disks.qemu_io(image, ["write -q 0 8M"])
        lib.run("qemu-img", "bitmap", "--add", image, "late")
        os.truncate(image, 300 * lib.KIB)
        self.refused(image, says=["cut.qcow2", "truncated or damaged", "qemu-img check"])

    def test_folders_of_the_same_name(self):
        """The message names the sources, and says how to tell them apart."""
        one, other = self.mkdir("one") + "/vm.qcow2", self.mkdir("other") + "/vm.qcow2"
        for image in (one, other):
            disks.create(image, size="1M")
        server = ["nbdkit", "memory", "1M", "]"]
        for sources, folder, names in (
                ([one, other], "vm", [one, other]),
                (["a=" + one, "a=" + other], "a", [one, other]),
                (["a=" + one, "a=[", *server], "a", [one, "[ nbdkit ]"]),
                (["a=[", *server, "a=" + one], "a", [one, "[ nbdkit ]"]),
                (["[", *server, "[", *server], "[ nbdkit ]/default", ["two sources [ nbdkit ]"])):
            self.refused(*sources, says=[*names, f"both be in the folder {folder}:",
                                         "give each", "(NAME=SOURCE)"])
        exports = NbdServer(self, {n: Export(512, bytes(512)) for n in ("vda", "vda/x")}).uri()
        with self.mount("a=" + one, "b=" + other, exports) as mount:
            self.assertEqual(len(mount.folders()), 3)

    def test_vmdk_of_several_files(self):
        """A descriptor that names files of the host is refused; the suggested command works."""
        for subformat in ("monolithicFlat", "twoGbMaxExtentSparse"):
            image = self.path("several.vmdk")
            lib.run("qemu-img", "create", "-q", "-f", "vmdk", "-o", f"subformat={subformat}", image,
                    "1M")
            self.refused(image, says=["VMDK that refers to other files", "qemu-img convert",
                                      "qemu-nbd"])
        with self.mount("[", "qemu-nbd", "-t", "-r", "-f", "vmdk", image, "]") as mount:
            self.assertEqual(os.stat(mount / "default/disk.raw").st_size, lib.MIB)

    def test_missing_backing_file(self):
        base = disks.create(os.path.join(self.dir, "base.qcow2"), size="4M")
        image = self.disk(backing=base)
        os.unlink(base)
        self.refused(image, says=["vm.qcow2", "qemu-img rebase", "backup:FOLDER"])

    def test_image_of_a_running_writer(self):
        image = self.disk()
        self.qemu_nbd(image, "-f", "qcow2")
        self.refused(image, says=["vm.qcow2", "qmp:"])

    # Mount points

    def test_mount_points(self):
        image = self.disk()
        missing, full = os.path.join(self.dir, "missing"), self.mkdir("full")
        with open(full + "/file", "w") as f:
            f.write("x")
        self.refused(image, point=missing, says=[missing])
        self.refused(image, point=full + "/file", says=[full + "/file"])
        self.refused(image, point=full, says=[full])
        self.assertEqual(os.listdir(full), ["file"])

    def test_busy_mount_point(self):
        image = self.disk()
        with self.mount(image) as mount:
            self.assert_refused(image, mount.point, says=[mount.point])
            self.assertTrue(mount.read("vm/disk.raw", "rb") == bytes(4 * lib.MIB))

    def test_pid_file_that_cannot_be_written(self):
        missing = os.path.join(self.dir, "missing", "pid")
        self.refused("-P", missing, self.disk(), says=[f"PID file {missing}: No such file or directory\n"])
        self.refused("-P", self.dir, self.disk(), says=[f"PID file {self.dir}: it is a folder\n"])
        fifo = self.path("fifo")
        os.mkfifo(fifo)
        self.refused("-P", fifo, self.disk(), says=[f"PID file {fifo}: it is not a regular file\n"])
        self.assertTrue(stat.S_ISFIFO(os.stat(fifo).st_mode))

    # Bitmaps

    def test_no_bitmap_is_fine(self):
        with self.mount(self.disk()) as mount:
            self.assertEqual([f for f in mount.files() if "dirty" in f], [])

    def test_inconsistent_bitmap(self):
        """A killed writer leaves the bitmap marked in use: it has no files, which is reported."""
        image = self.disk(bitmaps=["good", "bad"])
        server = self.qemu_nbd(image, "-f", "qcow2")
        lib.run("qemu-io", "-f", "raw", "-c", "write -q -P 1 0 64k", "-c", "flush", server.uri)
        server.kill()
        info = lib.run("qemu-img", "info", image)
        self.assertIn("in-use", info)
        with self.mount(image) as mount:
            self.assertEqual([f for f in mount.files() if "dirty" in f], [])
            for word in ("good", "bad", "inconsistent"):
                self.assertIn(word, mount.output())
                self.assertIn(word, mount.read("vm/info.json"))
            self.assertEqual(mount.read("vm/disk.raw", "rb")[:65536], b"\1" * 65536)

    def test_empty_disk(self):
        image = os.path.join(self.dir, "empty.raw")
        with open(image, "w"):
            pass
        self.refused(image, says=["empty.raw"])


if __name__ == "__main__":
    lib.main()
