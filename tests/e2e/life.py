#!/usr/bin/env python3
"""Life of a mount: background, foreground, signals, and leftovers after each."""
import glob
import os
import re
import signal
import subprocess

import disks
import lib


class Life(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.image = disks.create(os.path.join(self.dir, "vm.qcow2"), size="4M", bitmaps=["b"])

    def test_ready_when_it_returns(self):
        with self.mount(self.image) as mount:
            self.assertEqual(os.stat(mount / "vm/disk.raw").st_size, 4 * lib.MIB)
            self.assertEqual(mount.output(), "")
            with open(f"/proc/{mount.pid}/stat") as f:
                fields = f.read().rpartition(")")[2].split()
            # A daemon: its own session, no terminal, and / as its folder.
            self.assertEqual((int(fields[3]), int(fields[4])), (mount.pid, 0))
            self.assertEqual(os.readlink(f"/proc/{mount.pid}/cwd"), "/")

    def test_options_of_fuse(self):
        for option in ("allow_other", "allow_root", "auto_unmount", "noatime", "fsname=name",
                       "max_read=65536", "ro,noauto,nofail,_netdev,x-systemd.automount"):
            with self.subTest(option=option), \
                    self.mount(self.image, options=["-o", option]) as mount:
                self.assertEqual(mount.read("vm/disk.raw", "rb"), bytes(4 * lib.MIB))

    def test_short_options_may_hold_their_values(self):
        with self.mount("--", self.image, options=["-C2", "-ofsname=here,uid=1234"]) as mount:
            self.assertEqual(os.stat(mount.point).st_uid, 1234)
            with open("/proc/self/mounts") as f:
                self.assertIn(f"here {mount.point} ", f.read())

    def test_paths_may_be_relative(self):
        here = os.getcwd()
        self.defer(os.chdir, here)
        os.chdir(self.dir)
        os.mkdir("point")
        lib.run(*[os.path.join(here, a) if os.path.exists(os.path.join(here, a)) else a
                  for a in lib.FLEECEFS], "-P", "pid", "vm.qcow2", "point")
        self.defer(lib.attempt, "umount", "-l", self.dir + "/point")
        with open("pid") as f:
            pidfd = os.pidfd_open(int(f.read()))
        self.assertEqual(os.listdir("point/vm/dirty/"), os.listdir(self.dir + "/point/vm/dirty"))
        # Only qemu-storage-daemon keeps its working directory, for data files with relative names.
        stay = [process for process in glob.glob("/proc/[0-9]*") if self.is_here(process)]
        self.assertEqual(stay, [f"/proc/{os.getpid()}"])
        lib.run("fusermount3", "-u", self.dir + "/point")
        lib.wait_gone(pidfd, "fleecefs")
        self.assertFalse(os.path.exists("pid"))
        os.close(pidfd)

    def is_here(self, process):
        """Whether PROCESS, unless it is QEMU's, is running in our folder."""
        try:
            with open(process + "/comm") as f:
                return os.readlink(process + "/cwd") == self.dir and not f.read().startswith("qemu")
        except OSError:
            return False

    def test_ends_of_a_mount(self):
        ends = {
            "fusermount3": lambda mount: lib.run("fusermount3", "-u", mount.point),
            "umount": lambda mount: lib.run("umount", mount.point),
            "SIGTERM": lambda mount: os.kill(mount.pid, signal.SIGTERM),
            "SIGINT": lambda mount: os.kill(mount.pid, signal.SIGINT),
            "SIGHUP": lambda mount: os.kill(mount.pid, signal.SIGHUP),
        }
        for source in ([self.image], ["[", "nbdkit", "memory", "1M", "]"]):
            for name, end in ends.items():
                with self.subTest(source=source[-2:], end=name):
                    mount = self.mount(*source)
                    self.assertGreater(len(mount.processes), 1, "no embedded server")
                    end(mount)
                    mount.check_gone()

    def test_lazy_unmount_ends_when_the_last_file_is_closed(self):
        mount = self.mount(self.image)
        fd = os.open(mount / "vm/disk.raw", os.O_RDONLY)
        lib.run("fusermount3", "-u", "-z", mount.point)
        self.assertEqual(os.pread(fd, 10, 0), bytes(10))
        os.close(fd)
        mount.check_gone()

    def test_kill_ends_the_embedded_server(self):
        mount = self.mount(self.image)
        self.assertGreater(len(mount.processes), 1, "no embedded server")
        os.stat(mount.point)  # the kernel caches these attributes
        mount.kill()
        for args in ([self.image], ["--status"], ["--abort"], ["--commit"]):
            self.assert_refused(*args, mount.point,
                                says=[f"{mount.point} is a mount whose daemon has died: "
                                      f"fusermount3 -u {mount.point}"])
        lib.run("fusermount3", "-u", mount.point)
        self.assertEqual(os.listdir(mount.scratch), [])

    def test_no_process_is_left(self):
        """Not even the one that unmounts, which is not a child of the daemon."""
        for killed in (False, True):
            with self.subTest(killed=killed):
                mount = self.mount(self.image)
                pids = [int(pid) for pid in filter(str.isdigit, os.listdir("/proc"))
                        if self.names(pid, mount.point)]
                self.assertGreater(len(pids), 1)
                pidfds = [os.pidfd_open(pid) for pid in pids]
                if killed:
                    mount.kill()
                else:
                    os.kill(mount.pid, signal.SIGTERM)
                for pidfd in pidfds:
                    lib.wait_gone(pidfd, "a process of the mount")
                    os.close(pidfd)
                # A killed daemon stays mounted: an empty folder would look like an empty backup.
                self.assertEqual(lib.is_mounted(mount.point), killed)
                lib.attempt("umount", mount.point)

    def move_away(self, mount, parent):
        """Renames PARENT of the mount point and puts a link to another mount in its place."""
        victim = self.mkdir("victim")
        lib.run("mount", "-t", "tmpfs", "tmpfs", victim)
        self.defer(lib.attempt, "umount", "-l", victim)
        os.rename(parent, parent + ".moved")
        os.mkdir(parent)
        os.symlink(victim, mount.point)
        return victim, os.path.join(parent + ".moved", os.path.basename(mount.point))

    def test_only_its_own_mount_is_unmounted(self):
        """The daemon unmounts its mount, not its path: the owner of a parent folder can rename that."""
        if os.geteuid() != 0:
            self.skipTest("needs root, to mount something else")
        parent = self.mkdir("parent")
        os.mkdir(parent + "/mnt")
        mount = self.mount(self.image, point=parent + "/mnt")
        victim, moved = self.move_away(mount, parent)
        self.defer(lib.attempt, "umount", "-l", moved)
        self.assertTrue(lib.is_mounted(moved))
        os.kill(mount.pid, signal.SIGTERM)
        mount.check_gone()
        self.assertTrue(lib.is_mounted(victim), "unmounted something else")
        self.assertFalse(lib.is_mounted(moved), "its own mount is left")

    def test_a_mount_on_top_stays(self):
        if os.geteuid() != 0:
            self.skipTest("needs root, to mount something else")
        mount = self.mount(self.image)
        lib.run("mount", "-t", "tmpfs", "tmpfs", mount.point)
        os.kill(mount.pid, signal.SIGTERM)
        for pidfd in mount.processes.values():
            lib.wait_gone(pidfd, "a process of the mount")
        lib.run("mountpoint", "-q", mount.point)
        lib.run("umount", mount.point)
        lib.attempt("umount", "-l", mount.point)

    def test_mount_that_hangs_is_detached(self):
        """By tests/run, whatever its name is, and only in the folder given."""
        if os.geteuid() != 0:
            self.skipTest("needs root, to unmount what is mounted there")
        folder = self.mkdir("folder")
        inside, point = folder + "/a 1\\2 b", folder + " beside"
        os.mkdir(inside)
        os.mkdir(point)
        with self.mount(self.image, point=point), self.mount(self.image, point=inside) as mount:
            os.kill(mount.pid, signal.SIGSTOP)
            self.defer(os.kill, mount.pid, signal.SIGCONT)
            lib.run(lib.TOP + "/tests/detach", folder)
            self.assertFalse(lib.is_mounted(inside))
            self.assertTrue(lib.is_mounted(point))
            os.rmdir(inside)
            os.kill(mount.pid, signal.SIGCONT)
            mount.check_gone()

    def test_a_pid_file_of_another_process_stays(self):
        mount = self.mount(self.image)
        with open(mount.pidfile, "w") as f:
            f.write("1\n")
        os.kill(mount.pid, signal.SIGTERM)
        for pidfd in mount.processes.values():
            lib.wait_gone(pidfd, "a process of the mount")
        with open(mount.pidfile) as f:
            self.assertEqual(f.read(), "1\n")

    @staticmethod
    def names(pid, path):
        """Whether PATH is in the command line of process PID."""
        try:
            with open(f"/proc/{pid}/cmdline") as f:
                return path in f.read().split("\0")
        except OSError:
            return False

    def test_foreground(self):
        point, pidfile = self.mkdir("mnt"), self.path("pid")
        process = subprocess.Popen([*lib.FLEECEFS, "-f", "-P", pidfile, self.image, point],
                                   stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.defer(process.wait)
        self.defer(process.kill)
        self.defer(lib.attempt, "umount", "-l", point)
        lib.wait_for_file(pidfile, process)
        with open(pidfile) as f:
            self.assertEqual(int(f.read()), process.pid)
        self.assertEqual(os.listdir(point + "/vm/dirty")[0][0], "b")
        lib.run("fusermount3", "-u", point)
        self.assertEqual(process.wait(lib.PATIENCE), 0)
        process.stderr.close()
        self.assertFalse(os.path.exists(pidfile))

    def test_help_and_version(self):
        done = self.fleecefs("--help")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        for option in ("--foreground", "--pidfile", "--connections", "--status", "--version",
                       "MOUNTPOINT", "SOURCE"):
            self.assertIn(option, done.stdout)
        self.assertEqual(self.fleecefs("-h").stdout, done.stdout)
        done = self.fleecefs("--version")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertRegex(done.stdout, r"^fleecefs \d+\.\d+\.\d+\n")

    def test_output_that_cannot_be_written(self):
        with self.mount(self.image) as mount, open("/dev/full", "w") as full:
            for args in (["--help"], ["--version"], ["--status", mount.point],
                         ["--status=json", mount.point]):
                done = lib.attempt(*lib.FLEECEFS, *args, stdout=full)
                self.assertEqual(done.returncode, 1, args)
                self.assertRegex(done.stderr, r"\Afleecefs: [^\n]+\n\Z")

    def test_status(self):
        with self.mount(self.image) as mount:
            done = self.fleecefs("--status", mount.point)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertTrue(re.search(r"\bvm\b", done.stdout), done.stdout)
        self.assert_refused("--status", mount.point, says=[mount.point])


if __name__ == "__main__":
    lib.main()
