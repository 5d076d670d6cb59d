#!/usr/bin/env python3
"""Lack of threads, descriptors or memory: a clear error, and the daemon does not abort."""
import errno
import os
import pwd
import resource
import shutil
import subprocess
import time
import unittest

import lib
from nbdserver import Export, NbdServer
from pids import Pids
from vm import Disk, Vm

SIZE = 8 * lib.MIB
OPTIONS = ("-o", "timeout=5,reconnect=2,readahead=0")


class Limits(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.disk = self.rng.randbytes(SIZE)
        self.server = NbdServer(self, {"": Export(SIZE, self.disk, {"base:allocation": [(0, SIZE, 0)]})})

    def limit(self, mount, which, limit):
        """Sets a limit of the running daemon."""
        resource.prlimit(mount.pid, which, (limit, resource.prlimit(mount.pid, which)[1]))

    def keepers(self, home):
        """The keepers of daemons whose TMPDIR is HOME."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/comm") as f, open(f"/proc/{pid}/environ") as environ:
                    if f.read() == "fleecefs-keeper\n" and f"TMPDIR={home}\0" in environ.read():
                        found.append(pid)
            except (OSError, UnicodeDecodeError):
                pass  # it has ended
        return found

    def test_processes(self):
        """As an unprivileged user, because root has no such limit: a starting mount, and a running one."""
        lib.require("prlimit")
        self.need_other_users()
        os.chmod(self.dir, 0o755)
        os.chmod(self.server.path, 0o777)
        home, program, nobody = self.mkdir("home"), self.path("fleecefs"), pwd.getpwnam("nobody")
        shutil.copy(lib.FLEECEFS[0], program)
        point, pidfile = home + "/mnt", home + "/pid"
        os.mkdir(point)
        for path in (home, point):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        self.defer(lib.attempt, "umount", "-l", point)
        argv = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "env",
                f"TMPDIR={home}", f"XDG_RUNTIME_DIR={home}",
                # LeakSanitizer needs a separate process.
                f"ASAN_OPTIONS={os.environ['ASAN_OPTIONS']}:detect_leaks=0"]
        mount = [program, "-P", pidfile, *OPTIONS, self.server.uri(), point]

        # setpriv itself is one process, and no other can be created.
        for background in ((), ("-f",)):
            done = lib.attempt(*argv, "prlimit", "--nproc=1", program, *background, *mount[1:])
            self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1), done.stderr)
            self.assertIn("Resource temporarily unavailable", done.stderr)
            self.assertFalse(lib.is_mounted(point))
        self.assertIn("ulimit -u", done.stderr)

        # Whichever process or thread it is that cannot be made.
        for limit in range(1, 8):
            done = lib.attempt(*argv, "prlimit", f"--nproc={limit}", program,
                               "libvirt:x?connect=qemu+ssh://nowhere.invalid/system?command=false", point)
            self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1), done.stderr)
            self.assertEqual(sorted(os.listdir(home)), ["mnt"])

        # Without its keeper, nothing could end a mount.
        for limit in range(2, 10):
            done = lib.attempt(*argv, "prlimit", f"--nproc={limit}", *mount)
            self.assertEqual(lib.is_mounted(point), done.returncode == 0, done.stderr)
            if done.returncode == 0:
                self.assertTrue(self.keepers(home), limit)
                lib.run("umount", "-l", point)
            deadline = time.monotonic() + lib.PATIENCE
            while self.keepers(home):
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.05)

        done = lib.attempt(*argv, *mount)
        self.assertEqual(done.returncode, 0, done.stderr)
        with open(pidfile) as f:
            pid = int(f.read())
        pidfd = os.pidfd_open(pid)
        self.defer(os.close, pidfd)
        lib.run(*argv, "prlimit", f"--pid={pid}", "--nproc=1:1")
        done = lib.attempt(*argv, "prlimit", "--nproc=1", program, "--status", point)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertRegex(done.stderr, "^fleecefs: .*cannot ask its daemon: Resource temporarily unavailable "
                         ".*ulimit -u, .*\n$")
        # Loading maps and connecting need a thread, which exists already, also for reconnects.
        half = SIZE // 2
        for command in ("head", f"--bytes={half}"), ("tail", f"--bytes={half}"):
            done = subprocess.run([*argv, *command, point + "/default/disk.raw"], check=True,
                                  stdout=subprocess.PIPE, timeout=lib.PATIENCE)
            part = self.disk[:half] if command[0] == "head" else self.disk[half:]
            self.assertEqual(done.stdout == part, True, command)
            self.server.stop()
            self.server.start()
            os.chmod(self.server.path, 0o777)
        done = lib.attempt(*argv, program, "--abort", point)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        lib.wait_gone(pidfd, "fleecefs")
        self.assertFalse(lib.is_mounted(point))

    def test_processes_while_a_snapshot_begins(self):
        """Whichever it is that cannot be started: one line, and nothing is left in the VM or here."""
        vm = Vm(self, [Disk(self, name, size=4 * lib.MIB) for name in ("vda", "vdb")])
        vm.state = self.mkdir("state")
        group, scratch, point = Pids(self), self.mkdir("scratch"), self.mkdir("mnt")
        self.defer(lib.attempt, "umount", "-l", point)
        # LeakSanitizer needs a separate process.
        env = {**os.environ, "FLEECEFS_STATE_DIR": vm.state,
               "ASAN_OPTIONS": os.environ["ASAN_OPTIONS"] + ":detect_leaks=0"}
        for limit in range(1, 20):
            group.limit(limit)
            done = group.attempt(*lib.FLEECEFS, "-o", f"scratch={scratch}", "qmp:" + vm.monitor, point,
                                 env=env)
            group.limit("max")
            if done.returncode == 0:
                break
            # libfuse writes a line of its own if it cannot start mount(8).
            said = [line for line in done.stderr.splitlines()
                    if "full backup, because" not in line and not line.startswith("fuse: fork")]
            self.assertEqual((done.returncode, len(said)), (1, 1), done.stderr)
            self.assertRegex(said[0], "^fleecefs: cannot .*Resource temporarily unavailable.*pids.max")
            self.assertFalse(lib.is_mounted(point))
            self.assertEqual((vm.leftovers(), os.listdir(scratch), group.members()), ([], [], []), limit)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertGreater(limit, 3)
        # A mount that may start nothing more can be ended.
        group.limit(1)
        done = group.attempt(*lib.FLEECEFS, "--status", point, env=env)
        self.assertRegex(done.stderr, r"\Afleecefs: .*cannot ask its daemon: Resource .*pids.max[^\n]*\n\Z")
        lib.run(*lib.FLEECEFS, "--abort", point)
        self.assertEqual((vm.leftovers(), os.listdir(scratch), group.members()), ([], [], []))

    def test_descriptors(self):
        done = lib.attempt("prlimit", "--nofile=40", *lib.FLEECEFS, self.server.uri(),
                           self.mkdir("mnt"))
        self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1), done.stderr)
        self.assertIn("no more than 40 files may be open", done.stderr)
        mount = self.mount(self.server.uri(), options=OPTIONS)
        self.assertEqual(lib.read_direct(mount / "default/disk.raw", 65536) == self.disk[:65536], True)
        self.server.stop()
        self.server.start()
        files = resource.prlimit(mount.pid, resource.RLIMIT_NOFILE)[0]
        self.limit(mount, resource.RLIMIT_NOFILE, 3)
        self.assert_errno(errno.EIO, lib.read_direct, mount / "default/disk.raw", 65536, 65536)
        (export,) = mount.json(".fleecefs/status.json")["exports"]
        self.assertIn("Too many open files", export["failure"])
        self.limit(mount, resource.RLIMIT_NOFILE, files)  # LeakSanitizer needs some
        mount.unmount()

    @unittest.skipIf(lib.SANITIZED, "sanitizers want all of the address space")
    def test_memory(self):
        """No more memory, for a mount before its first read: correct data or an error. With some
        library versions even small allocations fail: then the daemon ends as if killed."""
        mount = self.mount(self.server.uri(), options=OPTIONS)
        self.limit(mount, resource.RLIMIT_AS, 1)
        for offset in range(0, SIZE, lib.MIB):
            try:
                found = lib.read_direct(mount / "default/disk.raw", lib.MIB, offset)
            except OSError as error:
                if error.errno in (errno.ECONNABORTED, errno.ENOTCONN):
                    mount.kill()
                    lib.attempt("umount", "-l", mount.point)
                    self.assertFalse(lib.is_mounted(mount.point))
                    return
                self.assertIn(error.errno, (errno.EIO, errno.ENOMEM))
            else:
                self.assertEqual(found == self.disk[offset:offset + lib.MIB], True)
        mount.json(".fleecefs/status.json")
        mount.unmount()


if __name__ == "__main__":
    lib.main()
