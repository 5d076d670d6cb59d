#!/usr/bin/env python3
"""Access to a mount, privileges of the daemon, and use without root."""
import errno
import os
import pwd
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess

import disks
import lib
from inject import Inside

CAPABILITIES = {"KILL": 5}  # to signal servers that run as another user


def status_of(pid):
    with open(f"/proc/{pid}/status") as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def has_seccomp():
    """Whether the build has a system call filter."""
    return not lib.SANITIZED and "libseccomp" in lib.run("ldd", lib.FLEECEFS[-1])


def can_be_closed():
    """Whether kernel and build support the whole sandbox."""
    landlock = lib.libc.syscall(444, None, 0, 1) >= 1  # landlock_create_ruleset: ABI version
    return has_seccomp() and landlock


class Rights(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.image = disks.create(os.path.join(self.dir, "vm.qcow2"), size="4M", bitmaps=["b"])

    def as_nobody(self, *argv):
        """Runs a command as an unprivileged user."""
        return lib.attempt("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *argv)

    def need_root(self):
        lib.require("setpriv")
        if os.geteuid() != 0:
            self.skipTest("needs root, to run as another user")
        os.chmod(self.dir, 0o755)

    def test_only_the_owner(self):
        self.need_root()
        with self.mount(self.image) as mount:
            self.assertNotEqual(self.as_nobody("ls", mount.point).returncode, 0)
            self.assertNotEqual(self.as_nobody("cat", mount / "vm/info.json").returncode, 0)
            program = self.path("fleecefs")
            shutil.copy(lib.FLEECEFS[0], program)
            for command in ("--status", "--commit", "--abort", "--rate=1M"):
                done = self.as_nobody(program, command, mount.point)
                self.assertEqual((done.returncode, done.stdout), (1, ""))
                self.assertEqual(done.stderr, f"fleecefs: {mount.point}: no permission to access it; "
                                 "if it is a mount of another user, run this as that user\n")
        with self.mount(self.image, options=["-o", "allow_other"]) as mount:
            self.assertEqual(self.as_nobody("cat", mount / "vm/info.json").returncode, 0)
            for name in ("x", "vm/x"):
                self.assertNotEqual(self.as_nobody("touch", mount / name).returncode, 0)

    def test_mount_options(self):
        with self.mount(self.image) as mount:
            with open("/proc/self/mounts") as f:
                options = next(line.split()[3].split(",") for line in f if mount.point in line)
            for option in ("ro", "nosuid", "nodev", "noexec", "default_permissions"):
                self.assertIn(option, options)
            self.assertNotIn("allow_other", options)
            self.assertEqual(stat.S_IMODE(os.stat(mount / "vm/disk.raw").st_mode), 0o444)
            self.assert_errno(errno.EROFS, open, mount / "vm/disk.raw", "r+b")

    def assert_sandboxed(self, pid):
        """Checks every thread, including those started before the sandbox."""
        kept = sum(1 << bit for bit in CAPABILITIES.values())
        if lib.SANITIZED:
            kept |= 1 << 19  # CAP_SYS_PTRACE, for LeakSanitizer
        for thread in os.listdir(f"/proc/{pid}/task"):
            status = status_of(f"{pid}/task/{thread}")
            self.assertEqual(int(status["CapPrm"], 16) & ~kept, 0)
            self.assertEqual(int(status["CapEff"], 16) & ~kept, 0)
            self.assertEqual(status["NoNewPrivs"], "1")
            if has_seccomp():
                self.assertEqual(status["Seccomp"], "2")

    def assert_jailed(self, pid, files, capability=0):
        """Checks that QEMU runs as nobody in a root that contains only FILES of ours."""
        if not has_seccomp() and not lib.SANITIZED:
            self.skipTest("the jail needs libseccomp")
        status = status_of(pid)
        self.assertEqual((status["NoNewPrivs"], status["Seccomp"]), ("1", "2"))
        self.assertEqual(int(status["CapEff"], 16), capability)
        self.assertNotIn("0", status["Uid"].split())
        for space in ("mnt", "net", "ipc", "uts"):
            self.assertNotEqual(os.readlink(f"/proc/{pid}/ns/{space}"),
                                os.readlink(f"/proc/self/ns/{space}"), space)
        root = f"/proc/{pid}/root"
        self.assertLessEqual(set(os.listdir(root)),
                             {"bin", "dev", "etc", "lib", "lib32", "lib64", "usr",
                              self.dir.split("/")[1], os.getcwd().split("/")[1]})
        self.assertEqual(os.listdir(root + "/etc"), ["ld.so.cache"])
        self.assertEqual(sorted(os.listdir(root + self.dir)),
                         sorted(os.path.basename(file) for file in files))

    def test_qemu_can_open_only_the_chain(self):
        """Even in a private folder, and through symbolic links."""
        folder = self.mkdir("private")
        base = os.path.join(folder, "base.qcow2")
        os.rename(self.image, base)
        os.symlink(base, self.image)
        top = self.path("top.qcow2")
        lib.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", self.image, "-F", "qcow2", top)
        self.path("neighbour")
        for path in (base, top):
            os.chmod(path, 0o600)
        os.chmod(folder, 0o700)
        with self.mount(top) as mount:
            self.assertEqual(mount.read(mount.folders()[0] + "/disk.raw", "rb"),
                             bytes(4 * lib.MIB))
            for pid in set(mount.processes) - {mount.pid}:
                # Only CAP_DAC_READ_SEARCH.
                self.assert_jailed(pid, [top, self.image], 4 if os.geteuid() == 0 else 0)

    def test_a_sandbox_that_cannot_be_closed(self):
        """This is reported, and refused with sandbox=require: here a chain that contains a server."""
        other = self.path("other.qcow2")
        shutil.copy(self.image, other)
        server = self.qemu_nbd(other)
        top = self.path("top.qcow2")
        lib.run("qemu-img", "create", "-q", "-f", "qcow2", "-b", server.uri, "-F", "raw", top)
        done = self.fleecefs("--sandbox=require", top, self.mkdir("mnt"))
        self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1), done.stderr)
        self.assertIn("sandbox=require", done.stderr)
        with self.mount(top) as mount:
            status = mount.json(".fleecefs/status.json")
            self.assertEqual(status["sandbox"], "open")
            self.assertIn("is not a file", status["sandbox_missing"])
            self.assertIn(status["sandbox_missing"], mount.output())
        with self.mount(self.image, options=["--sandbox=off"]) as mount:
            self.assertEqual(mount.json(".fleecefs/status.json")["sandbox"], "off")
            self.assertEqual(status_of(mount.pid)["NoNewPrivs"], "0")
        if can_be_closed():
            with self.mount(self.image, options=["--sandbox=require"]) as mount:
                self.assertEqual(mount.output(), "")

    def test_the_daemon_gives_up_rights(self):
        with self.mount(self.image) as mount:
            self.assert_sandboxed(mount.pid)
            # It can still open connections, read and unmount.
            self.assertEqual(mount.read("vm/disk.raw", "rb"), bytes(4 * lib.MIB))
            if can_be_closed():
                self.assertEqual(mount.json(".fleecefs/status.json")["sandbox"], "closed")
            for pid in set(mount.processes) - {mount.pid}:
                self.assert_jailed(pid, [self.image])
                # Its socket has no name, so no other process can connect.
                with open(f"/proc/{pid}/net/unix") as f:
                    names = [line.split()[-1] for line in f if mount.scratch in line]
                self.assertEqual([n for n in names if os.path.exists(n)], [])
            os.kill(mount.pid, signal.SIGTERM)
            mount.check_gone()

    def table(self):
        """Returns the table in SECURITY of fleecefs.1: {row: (the daemon, QEMU's tools, the keeper)}."""
        with open(f"{lib.TOP}/src/fleecefs.1") as f:
            text = f.read()
        lines = re.search(r"(?s)^\.It Sy may Ta.*?^\.El$", text, re.M)[0].splitlines()[1:-1]
        return {row: tuple(columns) for row, *columns in
                (re.sub(r"^\.It ", "", line).split(" Ta ") for line in lines)}

    def try_all(self, pid, stranger, listener, victim):
        """Returns {row: whether PID may do it}, given a process, socket and file without restrictions."""
        made = self.path("made").encode() + b"\0"
        victim = victim.encode() + b"\0"
        address = struct.pack("=H", socket.AF_UNIX) + listener.encode() + b"\0"
        inet = struct.pack("=H2s4s8x", socket.AF_INET, b"\0\1", socket.inet_aton("127.0.0.1"))
        with Inside(pid) as inside:
            may = inside.may

            def connects(family, where):
                fd = inside.call("socket", family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, 0)
                if fd < 0:
                    return False
                # Nothing listens on port 1: ECONNREFUSED means that the sandbox permits connect().
                done = inside.call("connect", fd, where, len(where))
                inside.call("close", fd)
                return done == 0 or -done in (errno.EINPROGRESS, errno.ECONNREFUSED)

            return {
                "read files": may("open", b"/etc/passwd\0", os.O_RDONLY),
                "write files": may("open", victim, os.O_WRONLY) or may("unlink", victim) or
                               may("open", made, os.O_WRONLY | os.O_CREAT, 0o600),
                "chmod, chown": may("chmod", victim, 0o4777) or may("chown", victim, 1, 1),
                "Unix sockets": connects(socket.AF_UNIX, address),
                "network": connects(socket.AF_INET, inet),
                "signals": may("kill", stranger, 0),
                "processes": may("clone", signal.SIGCHLD, 0, 0, 0, 0),
                "unmount": may("umount2", self.mount_point.encode() + b"\0", 2),
            }

    def test_the_table_of_the_manual(self):
        """Tries each row from inside the daemon and from inside QEMU; for the keeper's column see
        test_requests_to_the_keeper()."""
        self.need_root()
        if not can_be_closed():
            self.skipTest("this kernel or build cannot close the sandbox")
        table = self.table()
        self.assertEqual({row: columns[:2] for row, columns in table.items()}, {
            "reads": ("NBD, QMP", "images"),
            "user": ("yours", "nobody (root's)"),
            "capabilities": ("(1)", "(2)"),
            "read files": ("(3)", "(4)"),
            "write files": ("(5)", "none"),
            "chmod, chown": ("no", "no"),
            "Unix sockets": ("by the keeper (6)", "no"),
            "network": ("yes", "no"),
            "signals": ("own servers", "no"),
            "processes": ("none (7)", "none"),
            "unmount": ("by the keeper", "no"),
        })
        victim = self.path("victim")
        with open(victim, "w"):
            os.chmod(victim, 0o666)
        listener = self.path("socket")
        stranger = subprocess.Popen(["sleep", "1000"], preexec_fn=lib.die_with_us)
        self.defer(stranger.wait)
        self.defer(stranger.kill)
        with socket.socket(socket.AF_UNIX) as listening, self.mount(self.image) as mount:
            listening.bind(listener)
            os.chmod(listener, 0o777)
            listening.listen()
            self.mount_point = mount.point
            (qemu,) = set(mount.processes) - {mount.pid}
            nothing = dict.fromkeys(("read files", "write files", "chmod, chown", "Unix sockets",
                                     "signals", "processes", "unmount"), False)
            self.assertEqual(self.try_all(mount.pid, stranger.pid, listener, victim),
                             {**nothing, "network": True})
            self.assertEqual(self.try_all(qemu, stranger.pid, listener, victim),
                             {**nothing, "network": False})
            # It can signal its own server, which runs as another user.
            with Inside(mount.pid) as inside:
                self.assertTrue(inside.may("kill", -os.getpgid(qemu), 0))
                self.assertFalse(inside.may("execve", b"/bin/true\0", 0, 0))
            for pid, user, capabilities in ((mount.pid, 0, 1 << CAPABILITIES["KILL"]), (qemu, None, 0)):
                status = status_of(pid)
                self.assertEqual(int(status["CapEff"], 16), capabilities)
                self.assertEqual(int(status["Uid"].split()[1]) == 0, user == 0)
            # The attempts did not affect the mount.
            self.assertEqual(mount.read("vm/disk.raw", "rb"), bytes(4 * lib.MIB))
        self.assertEqual(stat.S_IMODE(os.stat(victim).st_mode), 0o666)

    def test_requests_to_the_keeper(self):
        """Everything that the daemon can request, tried from inside the daemon."""
        self.need_root()
        self.assertEqual({row: columns[2] for row, columns in self.table().items()}, {
            "reads": "nothing", "user": "yours", "capabilities": "yours", "read files": "yours",
            "write files": "the pid file", "chmod, chown": "no", "Unix sockets": "of a list",
            "network": "no", "signals": "no", "processes": "fusermount3", "unmount": "this mount"})
        unmount, remove_pidfile, connect = b"upc"
        before = lib.children(os.getpid())
        mount = self.mount(self.qemu_nbd(self.image).uri)
        with open("/proc/net/unix") as f:
            # SOCK_SEQPACKET; the last two columns may be inode and path.
            packets = {line.split()[6] for line in f if line.split()[4] == "0005"}
        (channel,) = {int(fd) for fd in os.listdir(f"/proc/{mount.pid}/fd")
                      if re.sub(r"\D", "", os.readlink(f"/proc/{mount.pid}/fd/{fd}")) in packets}
        (keeper,) = {pid for pid in set(lib.children(os.getpid())) - set(before)
                     if status_of(pid)["Name"] == "fleecefs-keeper"}
        ours = status_of(os.getpid())
        for name in ("Uid", "CapEff"):
            self.assertEqual(status_of(keeper)[name], ours[name])
        keeper = os.pidfd_open(keeper)
        self.defer(os.close, keeper)
        with open(mount.pidfile) as f:
            text = f.read()
        with open(mount.pidfile, "w") as f:
            f.write(f"{os.getpid()}\n")

        def ask(inside, *word):
            self.assertEqual(inside.call("write", channel, bytes(word), len(word)), len(word))
            return inside.read(channel, 1)

        with Inside(mount.pid) as inside:
            self.assertEqual(ask(inside, connect, 0), b"\0")
            for other in (1, 2, 255):
                self.assertEqual(ask(inside, connect, other), bytes([errno.EACCES]))
            # The pid file names another process.
            self.assertEqual(ask(inside, remove_pidfile, 0), b"\0")
            self.assertTrue(os.path.exists(mount.pidfile))
            # Another filesystem is mounted on top.
            lib.run("mount", "-t", "tmpfs", "above", mount.point)
            self.defer(lib.attempt, "umount", "-l", mount.point)
            self.assertEqual(ask(inside, unmount, 0), bytes([errno.EBUSY]))
            self.assertTrue(lib.is_mounted(mount.point))
            lib.run("umount", mount.point)
        self.assertEqual(mount.read("default/disk.raw", "rb"), bytes(4 * lib.MIB))
        with open(mount.pidfile, "w") as f:
            f.write(text)
        with Inside(mount.pid) as inside:
            # It exits at any other request.
            self.assertEqual(ask(inside, 0, 0), b"")
        lib.wait_gone(keeper, "the keeper")
        lib.run("fusermount3", "-u", mount.point)
        os.unlink(mount.pidfile)
        mount.check_gone()

    def test_capabilities_of_the_unit(self):
        """Those in the example mount.service suffice for a server; those in its comment, for images."""
        self.need_root()
        with open(f"{lib.TOP}/contrib/systemd/mount.service") as f:
            text = f.read()
        server = re.search("(?m)^CapabilityBoundingSet=(.*)$", text)[1]
        image = re.search("(?s)add to CapabilityBoundingSet:\n(.*?)\\.", text)[1]
        for source, names in ((self.nbdkit("memory", "4M").uri, server),
                              (self.image, server + " " + image)):
            names = [name.lower().removeprefix("cap_") for name in re.findall(r"CAP_\w+", names)]
            if lib.SANITIZED:
                names.append("sys_ptrace")  # for LeakSanitizer
            point, pidfile = self.mkdir("mnt"), self.path("pid")
            self.defer(lib.attempt, "umount", "-l", point)
            lib.run("setpriv", "--no-new-privs", "--inh-caps=-all",
                    "--bounding-set=-all" + "".join(f",+{name}" for name in names),
                    *lib.FLEECEFS, "-P", pidfile, source, point)
            with open(pidfile) as f:
                pidfd = os.pidfd_open(int(f.read()))
            self.defer(os.close, pidfd)
            (folder,) = set(os.listdir(point)) - {".fleecefs"}
            with open(f"{point}/{folder}/disk.raw", "rb") as f:
                self.assertEqual(f.read(), bytes(4 * lib.MIB))
            lib.run(*lib.FLEECEFS, "--abort", point)
            lib.wait_gone(pidfd, "fleecefs")

    def test_an_unprivileged_user(self):
        """Mounts, reads and unmounts an image with nothing but fusermount3."""
        self.need_root()
        self.need_other_users()
        home = self.mkdir("home")
        nobody = pwd.getpwnam("nobody")
        point, pidfile, image = f"{home}/mnt", f"{home}/pid", f"{home}/vm.qcow2"
        os.mkdir(point)
        shutil.copy(self.image, image)
        for path in (home, point, image):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        # The original may be in a folder of root.
        program = self.path("fleecefs")
        shutil.copy(lib.FLEECEFS[0], program)
        other = self.mkdir("other")
        done = self.as_nobody(program, image, other)
        self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1), done.stderr)
        self.assertIn(f"mount point {other}: ", done.stderr)
        for end in ("fusermount3", "SIGTERM"):
            with self.subTest(end):
                self.defer(subprocess.run, ["umount", "-l", point],)
                done = self.as_nobody("env", f"TMPDIR={home}", f"XDG_RUNTIME_DIR={home}", program,
                                      "-P", pidfile, image, point)
                self.assertEqual(done.returncode, 0, done.stderr)
                with open(pidfile) as f:
                    pid = int(f.read())
                pidfd = os.pidfd_open(pid)
                self.defer(os.close, pidfd)
                self.assert_sandboxed(pid)
                self.assertEqual(int(status_of(pid)["CapPrm"], 16), 0)
                (server,) = lib.children(pid)
                self.assertEqual(int(status_of(server)["CapEff"], 16), 0)
                for space in ("user", "mnt", "net"):
                    self.assertNotEqual(os.readlink(f"/proc/{server}/ns/{space}"),
                                        os.readlink(f"/proc/self/ns/{space}"), space)
                self.assertEqual(os.listdir(f"/proc/{server}/root{home}"), ["vm.qcow2"])
                read = self.as_nobody("cmp", "-n", 4 * lib.MIB, f"{point}/vm/disk.raw", "/dev/zero")
                self.assertEqual(read.returncode, 0, read.stderr)
                if end == "fusermount3":
                    self.assertEqual(self.as_nobody("fusermount3", "-u", point).returncode, 0)
                else:
                    os.kill(pid, signal.SIGTERM)
                lib.wait_gone(pidfd, "fleecefs")
                self.assertFalse(lib.is_mounted(point))
                self.assertFalse(os.path.exists(pidfile))


if __name__ == "__main__":
    lib.main()
