#!/usr/bin/env python3
"""contrib/fleecefs-backup and fleecefs-restore, on real VMs."""
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import time

import lib
from vm import Disk, Vm

BACKUP, RESTORE = (f"{lib.TOP}/contrib/fleecefs-{n}" for n in ("backup", "restore"))
TOOLS = ("qcow2", "raw", "tar", "restic", "borg")


class Base(lib.TestCase):
    """Base class for tests of fleecefs-backup: a VM called web, and its destination."""

    def setUp(self):
        super().setUp()
        self.env = {**self.environment(), "RESTIC_PASSWORD": "x",
                    "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes"}
        self.mnt = self.env["RUNTIME_DIRECTORY"] + "/web/mnt"
        self.to = self.mkdir("backups")
        self.defer(self.clear)

    def clear(self):
        if lib.is_mounted(self.mnt):
            lib.attempt("umount", "-l", self.mnt)

    def vm(self, *names, kind="qcow2"):
        lib.require("ddrescue")
        vm = Vm(self, [Disk(self, n, size=4 * lib.MIB, kind=kind) for n in names or ("vda", "vdb")])
        vm.state = self.env["FLEECEFS_STATE_DIR"]
        vm.scribble(self.rng)
        return vm

    def arguments(self, vm, *options, tool="qcow2", to=None):
        return [BACKUP, "-o", "scratch=" + self.dir, *options, tool, to or self.to,
                "web=qmp:" + vm.monitor]

    def backup(self, vm, *options, status=0, says=".", unmounted=False, **kwargs):
        """Runs fleecefs-backup; returns the names of the new generations. UNMOUNTED: something unmounts
        the snapshot meanwhile, and nobody waits for the daemon, which cleans up on its own."""
        before = self.generations()
        done = lib.attempt(*self.arguments(vm, *options, **kwargs), env=self.env)
        self.assertEqual(done.returncode, status, done.stderr)
        self.assertRegex(done.stderr, says)
        self.assertFalse(lib.is_mounted(self.mnt))
        deadline = time.monotonic() + lib.PATIENCE
        while unmounted and vm.leftovers() and time.monotonic() < deadline:
            time.sleep(0.1)
        self.assertEqual(vm.leftovers(), [])
        return sorted(set(self.generations()) - set(before))

    def generations(self):
        return os.listdir(self.to + "/web") if os.path.isdir(self.to + "/web") else []

    def restore(self, folder, *options, status=0, says="."):
        """Runs fleecefs-restore; returns the restored disk."""
        out = self.path("restored")
        done = lib.attempt(RESTORE, *options, folder, out)
        self.assertEqual(done.returncode, status, done.stderr)
        self.assertRegex(done.stderr, says)
        self.assertEqual([f for f in os.listdir(self.dir) if f.endswith(".part")], [])
        if status != 0:
            self.assertFalse(os.path.exists(out))
            return None
        with open(out, "rb") if "raw" in options else open(self.plain(out), "rb") as f:
            return f.read()

    def plain(self, image):
        plain = self.path("plain")
        lib.run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, plain)
        return plain

    def models(self, vm):
        return {name: bytes(disk.model) for name, disk in vm.disks.items()}

    def extract(self, tool, to):
        """Returns a folder with the generations that TOOL stored in TO."""
        if tool in ("rsync", "qcow2", "raw"):
            return self.to + "/web"
        out = self.mkdir("extracted")
        if tool == "tar":
            for name in self.generations():
                os.mkdir(f"{out}/{name}")
                lib.run("tar", "-C", f"{out}/{name}", "-xf", f"{self.to}/web/{name}")
        elif tool == "restic":
            said = lib.run("restic", "-r", to, "snapshots", "--json", env=self.env)
            for s in json.loads(said) or []:
                lib.run("restic", "-r", to, "restore", s["id"], "--target", f"{out}/{s['tags'][0]}",
                        env=self.env)
        else:
            for name in lib.run("borg", "list", "--short", to, env=self.env).split():
                os.mkdir(f"{out}/{name}")
                lib.run("borg", "extract", f"{to}::{name}", cwd=f"{out}/{name}", env=self.env)
        return out

    def repository(self, tool):
        """Returns the destination for TOOL."""
        if tool not in ("restic", "borg"):
            return self.to
        lib.require(tool)
        to = self.to + "/repository"
        lib.run(*(["restic", "-r", to, "init"] if tool == "restic" else
                  ["borg", "init", "--encryption=none", to]), env=self.env)
        return to

    def fail_tool(self, tool):
        """Makes a tool fail as if its destination were full."""
        path = self.env["PATH"].split(":")[0] + "/" + tool
        with open(path, "w") as f:
            f.write(f'#!/bin/sh\ncase "$*" in *backup*|*create*|*sync*) exit 1;; esac\n'
                    f'exec {shutil.which(tool)} "$@"\n')
        os.chmod(path, 0o755)
        self.failing = path

    def mend_tool(self):
        os.unlink(self.failing)


class Scripts(Base):
    def check_all_generations(self, tool):
        vm, to, expected = self.vm(), self.repository(tool), []
        for generation in range(4):
            if generation == 2:
                # A failed run leaves nothing, and the next one includes its changes.
                self.fail_tool("sync" if tool in ("qcow2", "raw", "tar") else tool)
                self.backup(vm, tool=tool, to=to, status=1, says="web: FAILED: ")
                self.mend_tool()
                vm.scribble(self.rng)
            expected.append(self.models(vm))
            self.backup(vm, tool=tool, to=to, says="vda since" if generation else "vda full")
            vm.scribble(self.rng)
        folder = self.extract(tool, to)
        names = sorted(os.listdir(folder))
        self.assertEqual(len(names), 4)
        lib.run(RESTORE, "--list", folder)
        for name, models in zip(names, expected):
            for disk, model in models.items():
                for form in ("qcow2", "raw"):
                    got = self.restore(folder, "--at", name, "-d", disk, "-O", form)
                    self.assertTrue(got == model, f"{name} {disk} {form}")
        self.assertTrue(self.restore(folder, "-d", "vda") == expected[-1]["vda"])
        return folder, names, expected

    def test_broken_chains_are_refused(self):
        folder, names, expected = self.check_all_generations("qcow2")
        self.restore(folder, says="several disks, choose one with --disk: vda, vdb", status=1)
        self.restore(folder, "-d", "vdx", says="no such backup", status=1)
        self.restore(folder, "-d", "vda", "--at", "1999", says="no such backup", status=1)
        self.restore(folder, "-d", "vda", "--at", "20", says="several", status=1)
        # Existing files are not overwritten.
        taken = self.path("taken")
        shutil.copy("/etc/hostname", taken)
        done = lib.attempt(RESTORE, "-d", "vda", folder, taken)
        self.assertIn("--force", done.stderr)
        self.assertEqual(done.returncode, 1)
        self.assertGreater(4096, os.stat(taken).st_size)
        lib.run(RESTORE, "-f", "-d", "vda", folder, taken)
        with open(self.plain(taken), "rb") as f:
            self.assertTrue(f.read() == expected[-1]["vda"])

        # A generation that is missing, truncated, of another disk, duplicated, or its own base.
        second = f"{folder}/{names[1]}"
        os.rename(second, self.dir + "/hidden")
        for name in names[2:]:
            self.restore(folder, "-d", "vda", "--at", name, status=1, says="which is missing")
        self.assertTrue(self.restore(folder, "-d", "vda", "--at", names[0]) == expected[0]["vda"])
        done = lib.attempt(RESTORE, "--list", folder)
        self.assertEqual((done.returncode, done.stdout.count("BROKEN")), (1, 4))
        os.rename(self.dir + "/hidden", second)
        shutil.copytree(second, folder + "/again")
        self.restore(folder, "-d", "vda", status=1, says="several files are restore point")
        shutil.rmtree(folder + "/again")
        self.change_info(second + "/vda", size=8 * lib.MIB)
        self.restore(folder, "-d", "vda", status=1, says="different sizes")
        self.change_info(second + "/vda", size=4 * lib.MIB)
        info = self.change_info(second + "/vda")
        self.change_info(second + "/vda", base=info["restore_point"])
        self.restore(folder, "-d", "vda", status=1, says="based on itself")
        self.change_info(second + "/vda", base=info["base"])
        image = second + "/vda/dirty/last.qcow2"
        os.chmod(image, 0o644)
        os.truncate(image, os.stat(image).st_size - 65536)
        self.restore(folder, "-d", "vda", status=1, says="last.qcow2 is damaged")

    @staticmethod
    def change_info(folder, **members):
        os.chmod(folder + "/info.json", 0o644)
        with open(folder + "/info.json") as f:
            info = {**json.load(f), **members}
        with open(folder + "/info.json", "w") as f:
            json.dump(info, f)
        return info

    def test_raw(self):
        folder, names, _ = self.check_all_generations("raw")
        dirty = f"{folder}/{names[1]}/vda/dirty/last"
        for path in (dirty + ".raw", dirty + ".ddrescue"):
            os.chmod(path, 0o644)
            with open(path, "rb") as f:
                content = f.read()
            # Also truncated in the middle of a number and of a line.
            for length in (len(content) // 2, len(content) - 2, len(content) - 8):
                os.truncate(path, length)
                self.restore(folder, "-d", "vda", status=1, says="is damaged")
            with open(path, "wb") as f:
                f.write(content)
        os.unlink(dirty + ".ddrescue")
        self.restore(folder, "-d", "vda", status=1, says="No such file")

    def test_tar(self):
        self.check_all_generations("tar")

    def test_restic(self):
        self.check_all_generations("restic")

    def test_borg(self):
        self.check_all_generations("borg")

    def test_chain_of_mixed_forms(self):
        """qcow2 on raw on qcow2, in one chain."""
        vm, expected = self.vm("vda"), []
        for tool in ("raw", "qcow2", "raw", "raw", "qcow2"):
            expected.append(bytes(vm.disks["vda"].model))
            self.backup(vm, tool=tool)
            vm.scribble(self.rng)
        names = sorted(self.generations())
        for name, model in zip(names, expected):
            for form in ("qcow2", "raw"):
                self.assertTrue(self.restore(self.to, "--at", name, "-O", form) == model, name)

    def test_files_that_stand_alone(self):
        """Recognized by extended attributes, whatever their names."""
        vm, expected = self.vm("vda"), []
        for day in ("full", "monday", "tuesday"):
            with self.mount("qmp:" + vm.monitor, env=vm.environment(),
                            options=["-o", "scratch=" + self.dir]) as mount:
                expected.append((day, bytes(vm.disks["vda"].model)))
                lib.run("cp", "--preserve=xattr", mount / (
                    "vda/disk.qcow2" if day == "full" else "vda/dirty/last.qcow2"),
                    f"{self.to}/{day}.qcow2")
                done = self.fleecefs("--commit", mount.point)
                self.assertEqual(done.returncode, 0, done.stderr)
            vm.scribble(self.rng)
        for day, model in expected:
            self.assertTrue(self.restore(self.to, "--at", day + ".qcow2") == model, day)
        os.unlink(self.to + "/monday.qcow2")
        self.restore(self.to, status=1, says="which is missing")

    def test_bitmaps_of_others(self):
        """They are in the tree, but not part of the chain."""
        vm = self.vm("vda")
        vm.qmp("block-dirty-bitmap-add", node="vda", name="aaa", persistent=True)
        for day in ("full", "monday"):
            with self.mount("qmp:" + vm.monitor, env=vm.environment(),
                            options=["-o", "scratch=" + self.dir]) as mount:
                model = bytes(vm.disks["vda"].model)
                attributes = [mount / f"vda/dirty/{b}.raw" for b in ("aaa", "last")]
                has_base = ["user.fleecefs.base" in os.listxattr(f) for f in attributes
                            if os.path.exists(f)]
                lib.run("cp", "-r", "--no-preserve=mode", mount.point, f"{self.to}/{day}")
                done = self.fleecefs("--commit", mount.point)
                self.assertEqual(done.returncode, 0, done.stderr)
            vm.scribble(self.rng)
            vm.write("vda", 0, 512, 99)
        self.assertEqual(has_base, [False, True])
        for form in ("raw", "qcow2"):
            os.unlink(f"{self.to}/monday/vda/disk.{form}")
        shutil.rmtree(self.to + "/monday/vda/split")
        self.assertTrue(self.restore(self.to) == model)
        shutil.rmtree(self.to + "/full")
        self.restore(self.to, status=1, says="last.qcow2 needs restore point")

    def test_another_destination_begins_with_a_full_backup(self):
        vm = self.vm("vda")
        self.backup(vm, says="vda full")
        self.to = self.mkdir("other")
        vm.scribble(self.rng)
        self.backup(vm, says="a full backup, because vda: \\S+ is not in .*several destinations in turn, give "
                    "each a separate --series, or store pieces")
        self.assertTrue(self.restore(self.to) == vm.disks["vda"].model)
        vm.scribble(self.rng)
        self.backup(vm, says="vda since")
        self.assertTrue(self.restore(self.to) == vm.disks["vda"].model)
        self.backup(vm, "--full", says="vda full")

    def gate(self, tool, command=""):
        """Makes TOOL, with COMMAND among its arguments, stop once it has begun to write its last argument;
        returns a descriptor that becomes readable then."""
        fifo = self.path("gate")
        os.mkfifo(fifo)
        path = self.env["PATH"].split(":")[0] + "/" + tool
        with open(path, "w") as f:
            f.write(f'#!/bin/sh\ncase "$*" in *{command}*) ;; *) exec {shutil.which(tool)} "$@";; esac\n'
                    f'for last; do :; done\necho part >"$last"\necho $$ >{fifo}\n'
                    f"read x <{self.dir}/never\n")
        os.chmod(path, 0o755)
        if not os.path.exists(self.dir + "/never"):
            os.mkfifo(self.dir + "/never")
        self.failing = path
        return os.open(fifo, os.O_RDWR)

    def start_and_wait(self, argv, gate):
        """Starts a script and waits until its tool stops at GATE; returns its process, and the tool's pid."""
        process = subprocess.Popen(argv, env=self.env, text=True,
                                   stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                   preexec_fn=lib.die_with_us)
        self.defer(process.stderr.close)
        ready = select.select([gate], [], [], lib.PATIENCE)[0]
        self.assertTrue(ready, "the tool was not started")
        pid = int(os.read(gate, 64))
        os.close(gate)
        self.mend_tool()
        return process, pid

    def test_signals_abort(self):
        vm = self.vm("vda")
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            before, points = self.generations(), vm.points()
            process, _ = self.start_and_wait(self.arguments(vm), self.gate("cp"))
            self.assertTrue(lib.is_mounted(self.mnt))
            process.send_signal(signum)
            self.assertEqual(process.wait(lib.PATIENCE), 128 + signum)
            self.assertRegex(process.stderr.read(), f"stopped by {signum.name}")
            self.assertFalse(lib.is_mounted(self.mnt))
            self.assertEqual((vm.leftovers(), vm.points()), ([], points))
            self.assertEqual(self.generations(), before)
            vm.scribble(self.rng)
            self.backup(vm)
            self.assertTrue(self.restore(self.to) == vm.disks["vda"].model)
            vm.scribble(self.rng)

    def test_signals_while_something_hangs(self):
        """A command that ignores SIGTERM is killed by the second signal; a query ends by the first."""
        vm, fifo = self.vm("vda"), self.path("ready")
        os.mkfifo(fifo)
        ready = os.open(fifo, os.O_RDWR)
        self.defer(os.close, ready)
        deaf = self.arguments(vm, "--before", f"trap 'echo >{fifo}' TERM; echo >{fifo}; while :; do sleep 0.1; done")
        path = self.env["PATH"].split(":")[0] + "/virsh"
        with open(path, "w") as f:
            f.write(f"#!/bin/sh\necho >{fifo}\nexec sleep 1000\n")
        os.chmod(path, 0o755)
        for argv, signals in (([BACKUP, "--all", "qcow2", self.to], 1), (deaf, 2)):
            process = subprocess.Popen(argv, env=self.env, stdin=subprocess.DEVNULL,
                                       stderr=subprocess.PIPE, text=True, preexec_fn=lib.die_with_us)
            self.defer(process.stderr.close)
            for _ in range(signals):
                # It has started; or it was asked to end.
                self.assertTrue(select.select([ready], [], [], lib.PATIENCE)[0])
                os.read(ready, 64)
                process.send_signal(signal.SIGTERM)
            self.assertEqual(process.wait(lib.PATIENCE), 128 + signal.SIGTERM)
            self.assertRegex(process.stderr.read(), "stopped by SIGTERM")

    def test_unmounted_before_the_commit(self):
        """Then nothing was committed."""
        vm = self.vm("vda")
        path = self.env["PATH"].split(":")[0] + "/sync"
        with open(path, "w") as f:
            f.write(f"#!/bin/sh\numount -l {self.mnt} 2>/dev/null\n:\n")
        os.chmod(path, 0o755)
        self.assertEqual(self.backup(vm, status=1, says="could not be committed",
                                     unmounted=True), [])
        os.unlink(path)
        self.backup(vm, says="vda full")

    def test_killed(self):
        """Without cleanup, and with the tool still running; the next run waits for neither."""
        vm = self.vm("vda")
        self.backup(vm)
        vm.scribble(self.rng)
        process, tool = self.start_and_wait(self.arguments(vm), self.gate("cp"))
        end = os.pidfd_open(tool)
        self.defer(os.close, end)
        process.kill()
        process.wait(lib.PATIENCE)
        done = lib.attempt(*self.arguments(vm), env=self.env)
        self.assertRegex(done.stderr, "web: FAILED: a backup of it is already running")
        self.assertEqual(done.returncode, 1)
        os.kill(tool, signal.SIGKILL)
        lib.wait_gone(end, "the tool")
        self.assertTrue(lib.is_mounted(self.mnt))
        self.assertEqual(len(self.backup(vm, says="vda since")), 1)
        self.assertTrue(self.restore(self.to) == vm.disks["vda"].model)
        self.assertEqual([f for f in os.listdir(self.to + "/web") if f.startswith(".")], [])

    def test_daemon_killed(self):
        vm = self.vm("vda")
        self.backup(vm)
        vm.scribble(self.rng)
        process, tool = self.start_and_wait(self.arguments(vm), self.gate("cp"))
        with open(self.mnt + "/.fleecefs/status.json") as f:
            pid = json.load(f)["pid"]
        end = os.pidfd_open(pid)
        self.defer(os.close, end)
        os.kill(pid, signal.SIGKILL)
        lib.wait_gone(end, "the daemon")
        os.kill(tool, signal.SIGTERM)
        self.assertEqual(process.wait(lib.PATIENCE), 1)
        self.assertFalse(lib.is_mounted(self.mnt))
        self.assertEqual(len(self.backup(vm, says="vda since")), 1)
        self.assertTrue(self.restore(self.to) == vm.disks["vda"].model)

    def test_restore_that_is_stopped(self):
        """No disk, partial or complete, is left, and an existing one is unchanged."""
        vm = self.vm("vda")
        self.backup(vm)
        out = self.to + "/vda.qcow2"
        for options in ([], ["--force"]):
            process, _ = self.start_and_wait([RESTORE, *options, self.to + "/web", out],
                                             self.gate("qemu-img", "convert"))
            process.send_signal(signal.SIGTERM)
            self.assertEqual(process.wait(lib.PATIENCE), 128 + signal.SIGTERM)
            self.assertEqual(sorted(os.listdir(self.to)), ["vda.qcow2", "web"] if options else ["web"])
            lib.run(RESTORE, "--force", self.to + "/web", out)
        process, tool = self.start_and_wait([RESTORE, "--force", self.to + "/web", out],
                                            self.gate("qemu-img", "convert"))
        process.kill()
        process.wait(lib.PATIENCE)
        os.kill(tool, signal.SIGKILL)
        lib.run("qemu-img", "check", out)
        lib.run(RESTORE, "--force", self.to + "/web", out)
        self.assertEqual(sorted(os.listdir(self.to)), ["vda.qcow2", "web"])

    def test_incomplete_read_is_not_committed(self):
        """A buggy tool that succeeds without reading everything."""
        vm = self.vm("vda")
        path = self.env["PATH"].split(":")[0] + "/cp"
        with open(path, "w") as f:
            f.write('#!/bin/sh\nfor last; do :; done\n: >"$last"\n')
        os.chmod(path, 0o755)
        self.assertEqual(self.backup(vm, status=1, says="bytes of disk vda were not read"), [])
        os.unlink(path)
        self.backup(vm, says="vda full")

    def test_failed_commit_is_discarded(self):
        """The next run repeats the backup."""
        vm = self.vm("vda")
        refusing = self.path("refusing")
        with open(refusing, "w") as f:
            f.write('#!/bin/sh\ncase $1 in --commit) exit 1;; esac\nexec fleecefs "$@"\n')
        os.chmod(refusing, 0o755)
        for tool in TOOLS:
            to = self.repository(tool)
            self.env["FLEECEFS"] = refusing
            self.backup(vm, "--full", tool=tool, to=to, status=1, says="could not be committed")
            del self.env["FLEECEFS"]
            folder = self.extract(tool, to)
            self.assertEqual(os.listdir(folder) if os.path.isdir(folder) else [], [], tool)
            self.backup(vm, "--full", tool=tool, to=to)
            self.assertEqual(len(os.listdir(self.extract(tool, to))), 1, tool)
            self.to = self.mkdir("another")

    def test_several_vms(self):
        """A VM that fails does not prevent backups of the others."""
        vm = self.vm("vda")
        done = lib.attempt(BACKUP, "-o", "scratch=" + self.dir, "qcow2", self.to,
                           "gone=qmp:/nonexistent", "web=qmp:" + vm.monitor, env=self.env)
        self.assertRegex(done.stderr, "(?s)gone: FAILED.*web: .*: done")
        self.assertEqual(done.returncode, 1)
        self.assertTrue(self.restore(self.to) == vm.disks["vda"].model)

    def test_wrong_usage(self):
        for args in ([], ["qcow2"], ["zip", self.to, "qmp:x"], ["qcow2", self.to],
                     ["qcow2", self.to, "qmp:/run/web/qmp", "qmp:/run/db/qmp"],
                     ["qcow2", self.to, "vm.qcow2"], ["qcow2", self.to, "nbd://host"],
                     ["qcow2", self.to, "..=qmp:x"], ["qcow2", self.to, "libvirt:"]):
            done = lib.attempt(BACKUP, *args)
            self.assertEqual(done.returncode, 2, args)
            self.assertIn("usage: fleecefs-backup", done.stderr)
        for args, says in (([self.to, "qmp:/run/web/qmp", "qmp:/run/db/qmp"],
                            "qmp:/run/web/qmp and qmp:/run/db/qmp would be stored under .*'qmp': "
                            ".*NAME=SOURCE"),
                           ([self.to, "x=qmp:"], "'x=qmp:' needs the path of a monitor's socket"),
                           ([self.to, "libvirt:"], "'libvirt:' needs the name of a domain"),
                           (["", "qmp:x"], "DESTINATION is empty"),
                           ([self.to, ""], "'' is neither qmp:SOCKET"),
                           (["--exclude=x", self.to, "qmp:x"], "--exclude requires --all")):
            done = lib.attempt(BACKUP, "qcow2", *args)
            self.assertEqual(done.returncode, 2, args)
            self.assertRegex(done.stderr, f"\nfleecefs-backup: error: [^\n]*{says}[^\n]*\n\\Z")
        # As in the timer's service without backup.conf.
        done = lib.attempt(BACKUP, "", "", "libvirt:web")
        self.assertRegex(done.stderr, "no TOOL is set; .*/etc/fleecefs/backup.conf")
        self.assertEqual(done.returncode, 2)
        for args, says in (([self.to], "no OUTPUT"), (["--list", self.to, "x"], "--list takes a FOLDER"),
                           (["--define", self.to], "--define needs a TARGET.*FOLDER TARGET")):
            done = lib.attempt(RESTORE, *args)
            self.assertEqual((done.returncode, done.stdout), (2, ""))
            self.assertRegex(done.stderr, f"error: {says}[^\\n]*\n\\Z")

    def test_options_of_fleecefs(self):
        """Those that fleecefs would refuse are refused before anything is done."""
        before = ["--before", f"touch {self.dir}/begun", "qcow2", self.to, "qmp:" + self.path("none")]
        for options, says in ((["-o", "nosuch=1"], "unknown option 'nosuch=1'"),
                              (["-o", "agent"], "option agent needs a value"),
                              (["-o", "rate=5M,timeout=x"], "option timeout: 'x'"),
                              (["-r", "fast"], "option rate: 'fast' is not a size"),
                              (["-s", "a/b"], "series 'a/b': a name consists of"),
                              (["-o", "series=x"], "--series=NAME"),
                              (["-o", "rate=5,debug"], "foreground"),
                              (["@nosuch"], "@nosuch: No such file or directory"),
                              (["@" + self.dir], "@/.*: Is a directory")):
            done = lib.attempt(BACKUP, *options, *before, env=self.env)
            self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
            self.assertRegex(done.stderr, rf"\Ausage: [^\n]*\nfleecefs-backup: error: [^\n]*{says}[^\n]*\n\Z")
        self.assertFalse(os.path.exists(self.dir + "/begun"))
        self.assertEqual(os.listdir(self.to), [])
        # A comma in a value is no end of an option. An option that does not suit the VM is its failure.
        words = self.path("words")
        with open(words, "w") as f:
            f.write("--verify\n-o\nscratch=/a\\,debug,since=x\n")
        done = lib.attempt(BACKUP, "@" + words, *before, env=self.env)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertTrue(os.path.exists(self.dir + "/begun"))

    def test_what_is_not_there(self):
        """A line that says what, and nothing of the state of a VM whose snapshot could not be taken."""
        lib.require("restic", "borg")
        none = self.path("none")
        for tool, says in (("qcow2", "does not exist; create the folder first"),
                           ("rsync", "does not exist; create the folder first"),
                           ("restic", f"restic has failed: .*create it: restic -r {none} init"),
                           ("borg", f"borg has failed: .*create it: borg init .*{none}")):
            done = lib.attempt(BACKUP, tool, none, "web=qmp:" + none, env=self.env)
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertRegex(done.stderr, f"\\Afleecefs-backup: web: FAILED: .*{says}\n\\Z")
        with open(self.to + "/web", "w"):
            pass
        for tool in ("qcow2", "tar", "rsync"):
            done = lib.attempt(BACKUP, tool, self.to, "web=qmp:" + none, env=self.env)
            self.assertEqual(done.stderr, f"fleecefs-backup: web: FAILED: {self.to}/web is not a folder\n")
        os.unlink(self.to + "/web")
        done = lib.attempt(BACKUP, "restic", self.repository("restic"), "web=qmp:" + none,
                           env={**self.env, "RESTIC_PASSWORD": "y"})
        self.assertRegex(done.stderr, r"restic has failed: .*password.*\n\Z")
        self.assertNotIn("init", done.stderr)
        done = lib.attempt(BACKUP, "qcow2", self.to, "web=qmp:" + none, env=self.env)
        self.assertRegex(done.stderr, r"\Afleecefs: qmp:.* cannot connect.*\n"
                         r"fleecefs-backup: web: FAILED: .*\n\Z")
        done = lib.attempt(BACKUP, "qcow2", self.to, "web=qmp:" + none,
                           env={**self.env, "FLEECEFS": none, "RUNTIME_DIRECTORY": self.mkdir("run")})
        self.assertRegex(done.stderr, f"\\Afleecefs-backup: web: FAILED: {none} is not installed\n\\Z")
        done = lib.attempt(BACKUP, "qcow2", self.to, "web=qmp:" + none,
                           env={**self.env, "RUNTIME_DIRECTORY": "x"})
        self.assertRegex(done.stderr, r"RUNTIME_DIRECTORY is 'x', not an absolute path\n\Z")

    def test_progress(self):
        """Shows a bar on a terminal while a tool runs."""
        vm = self.vm("vda")
        path = self.env["PATH"].split(":")[0] + "/cp"
        real = shutil.which("cp")
        with open(path, "w") as f:
            # Long enough for the bar, which is drawn after a second.
            f.write(f'#!/bin/sh\n{real} "$@" || exit\nsleep 1.5\n')
        os.chmod(path, 0o755)
        ours, theirs = pty.openpty()
        self.defer(os.close, ours)
        process = subprocess.Popen(self.arguments(vm), env=self.env, stderr=theirs,
                                   stdin=subprocess.DEVNULL, preexec_fn=lib.die_with_us)
        os.close(theirs)
        said = b""
        while process.poll() is None or select.select([ours], [], [], 0)[0]:
            try:
                said += os.read(ours, 4096)
            except OSError:  # EIO: the other end is closed
                break
        self.assertEqual(process.wait(lib.PATIENCE), 0, said)
        self.assertRegex(said.decode(), r"web \[#{40}\] \S+ [KM]iB of ")


if __name__ == "__main__":
    lib.main()
