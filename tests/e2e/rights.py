#!/usr/bin/env python3
"""Who may see a mount, what the daemon may do, and that nobody has to be root."""
import errno
import os
import pwd
import shutil
import signal
import stat
import subprocess

import disks
import lib

CAPABILITIES = {"KILL": 5}  # for servers of another user


def status_of(pid):
    with open(f"/proc/{pid}/status") as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)


def has_seccomp():
    """Whether the build has a filter of system calls."""
    return not lib.SANITIZED and "libseccomp" in lib.run("ldd", lib.FLEECEFS[-1])


def can_be_closed():
    """Whether kernel and build have all that the sandbox is made of."""
    landlock = lib.libc.syscall(444, None, 0, 1) >= 1  # landlock_create_ruleset, which version
    return has_seccomp() and landlock


class Rights(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.image = disks.create(os.path.join(self.dir, "vm.qcow2"), size="4M", bitmaps=["b"])

    def as_nobody(self, *argv):
        """Runs a command as a user without rights."""
        return lib.attempt("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *argv)

    def need_root(self):
        lib.require("setpriv")
        if os.geteuid() != 0:
            self.skipTest("needs root, to be somebody else")
        os.chmod(self.dir, 0o755)

    def test_only_the_owner(self):
        self.need_root()
        with self.mount(self.image) as mount:
            self.assertNotEqual(self.as_nobody("ls", mount.point).returncode, 0)
            self.assertNotEqual(self.as_nobody("cat", mount / "vm/info.json").returncode, 0)
        with self.mount(self.image, options=["-o", "allow_other"]) as mount:
            self.assertEqual(self.as_nobody("cat", mount / "vm/info.json").returncode, 0)
            for name in ("x", "vm/x"):
                self.assertNotEqual(self.as_nobody("touch", mount / name).returncode, 0)

    def test_what_the_kernel_is_told(self):
        with self.mount(self.image) as mount:
            with open("/proc/self/mounts") as f:
                options = next(line.split()[3].split(",") for line in f if mount.point in line)
            for option in ("ro", "nosuid", "nodev", "noexec", "default_permissions"):
                self.assertIn(option, options)
            self.assertNotIn("allow_other", options)
            self.assertEqual(stat.S_IMODE(os.stat(mount / "vm/disk.raw").st_mode), 0o444)
            self.assert_errno(errno.EROFS, open, mount / "vm/disk.raw", "r+b")

    def assert_fenced(self, pid):
        """In every thread: also in those that were there before the sandbox."""
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
        """QEMU is nobody, with a file system of its own that has FILES of ours and no others."""
        if not has_seccomp() and not lib.SANITIZED:
            self.skipTest("there is no jail without libseccomp")
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

    def test_only_the_chain_is_in_reach_of_qemu(self):
        """Also where nobody else may read it, and by names that lead elsewhere."""
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
                # CAP_DAC_READ_SEARCH, and no other.
                self.assert_jailed(pid, [top, self.image], 4 if os.geteuid() == 0 else 0)

    def test_a_sandbox_that_cannot_be_closed(self):
        """It is said, and may be refused: here for a chain that leads to a server."""
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
            self.assertIn("which is no file", status["sandbox_missing"])
            self.assertIn(status["sandbox_missing"], mount.output())
        with self.mount(self.image, options=["--sandbox=off"]) as mount:
            self.assertEqual(mount.json(".fleecefs/status.json")["sandbox"], "off")
            self.assertEqual(status_of(mount.pid)["NoNewPrivs"], "0")
        if can_be_closed():
            with self.mount(self.image, options=["--sandbox=require"]) as mount:
                self.assertEqual(mount.output(), "")

    def test_the_daemon_gives_up_rights(self):
        with self.mount(self.image) as mount:
            self.assert_fenced(mount.pid)
            # It goes on and comes to its end all the same: also connections are opened later.
            self.assertEqual(mount.read("vm/disk.raw", "rb"), bytes(4 * lib.MIB))
            if can_be_closed():
                self.assertEqual(mount.json(".fleecefs/status.json")["sandbox"], "closed")
            for pid in set(mount.processes) - {mount.pid}:
                self.assert_jailed(pid, [self.image])
                # Nobody but us can connect: it listens where there is no name.
                with open(f"/proc/{pid}/net/unix") as f:
                    names = [line.split()[-1] for line in f if mount.scratch in line]
                self.assertEqual([n for n in names if os.path.exists(n)], [])
            os.kill(mount.pid, signal.SIGTERM)
            mount.check_gone()

    def test_an_unprivileged_user(self):
        """All of it, from an image file to the unmount, with no more than fusermount3."""
        self.need_root()
        if not os.stat(shutil.which("fusermount3")).st_mode & stat.S_ISUID or \
                not os.stat("/dev/fuse").st_mode & stat.S_IWOTH:
            self.skipTest("fusermount3 or /dev/fuse are for root alone here")
        home = self.mkdir("home")
        nobody = pwd.getpwnam("nobody")
        point, pidfile, image = f"{home}/mnt", f"{home}/pid", f"{home}/vm.qcow2"
        os.mkdir(point)
        shutil.copy(self.image, image)
        for path in (home, point, image):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        # The program may be where only root gets to.
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
                self.assert_fenced(pid)
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
