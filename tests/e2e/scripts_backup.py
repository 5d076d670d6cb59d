#!/usr/bin/env python3
"""contrib/fleecefs-backup: identity of VMs, and incomplete chains, on real VMs."""
import json
import os
import shutil
import sys
import time

import lib
import scripts
from pids import Pids
from vm import Disk, Vm

sys.path.append(lib.TOP + "/contrib")
sys.dont_write_bytecode = True
from fleecefs_backups import keep, text, tools  # noqa: E402


class Backup(scripts.Base):
    def test_names(self):
        """Names of VMs are unique and safe in filesystems and repositories."""
        names = ["web", "Web", "web?1", "web&1", "web%3F1", "web/1", "web%2F1", "we b", "-web", ".web",
                 "%2Dweb", "web\\", "web\n", "web\x1b[2J", "web:1", "web{now}", "w" * 200, "w" * 201,
                 "w" * 201 + "x", "é" * 150, "\udcff", "web-", "web::x", "..", "."]
        encoded = [text.file_name(n) for n in names]
        self.assertEqual(len(set(encoded)), len(names))
        for name in encoded:
            self.assertLessEqual(len(os.fsencode(name)), text.NAME_MAX)
            self.assertNotRegex(name, r"^[-.]|[/:{}\\\x00-\x1f]")
        self.assertEqual(encoded[:2] + encoded[7:8], ["web", "Web", "we b"])

    def test_another_vm_of_the_same_name(self):
        """Without a UUID, the socket identifies the VM."""
        web = self.vm("vda")
        self.backup(web)
        other = self.vm("vda")
        self.assertEqual(self.backup(other, status=1, says="web: FAILED: .* has backups of another VM "
                                     "under this name: .*NAME=SOURCE"), [])
        self.assertEqual(len(self.generations()), 1)
        self.assertTrue(self.restore(self.to) == web.disks["vda"].model)

    def test_failed_first_backup(self):
        """It leaves no folder, unless there was one before."""
        lib.require("rsync")
        vm = self.vm("vda")
        self.fail_tool("sync")
        for tool in ("qcow2", "tar", "rsync"):
            for before in ([], ["web"]):
                for name in before:
                    os.mkdir(f"{self.to}/{name}")
                self.backup(vm, tool=tool, status=1, says="web: FAILED: ")
                self.assertEqual(os.listdir(self.to), before, tool)
                self.assertEqual(self.generations(), [], tool)
            os.rmdir(self.to + "/web")

    def test_vm_is_recorded(self):
        """Each tool stores the VM's identity, and numbers that define the order."""
        for tool in scripts.TOOLS:
            vm, to = self.vm("vda"), self.repository(tool)
            for _ in range(2):
                self.backup(vm, tool=tool, to=to)
                vm.scribble(self.rng)
            folder = self.extract(tool, to)
            said = []
            for name in os.listdir(folder):
                with open(f"{folder}/{name}/vm.json") as f:
                    said.append(json.load(f))
                    self.assertIn(said[-1]["generation"],
                                  (name, name.removesuffix(".tar"), name.removeprefix("web-")))
            said.sort(key=lambda s: s["number"])
            self.assertEqual([s["number"] for s in said], [0, 1], tool)
            self.assertEqual([s["called"] for s in said], ["web"] * 2)
            self.assertEqual({s["vm"]["source"] for s in said}, {"qmp:" + vm.monitor})
            chained = not os.path.isdir(f"{folder}/{name}/vda/split")
            self.assertEqual([s["disks"]["vda"]["needs"] for s in said],
                             [[], [said[0]["generation"]] * chained], tool)
            self.to = self.mkdir("another")

    def remove(self, tool, to, name):
        """Removes a generation as a retention tool that ignores chains would."""
        if tool in ("rsync", "qcow2", "raw"):
            shutil.rmtree(f"{to}/web/{name}")
        elif tool == "tar":
            os.unlink(f"{to}/web/{name}")
        elif tool == "restic":
            said = json.loads(lib.run("restic", "-r", to, "snapshots", "--json", env=self.env))
            lib.run("restic", "-r", to, "forget",
                    *[s["id"] for s in said if name in s["tags"]], env=self.env)
        else:
            lib.run("borg", "delete", f"{to}::{name}", env=self.env)

    @staticmethod
    def shows_pieces():
        return "split" in lib.run(*lib.FLEECEFS, "--help")

    def check_pieces(self, tool):
        """Each generation is a complete disk: removing any does not affect later ones."""
        if not self.shows_pieces():
            self.skipTest("this fleecefs has no disks in pieces")
        lib.require("rsync")
        vm, to, expected = self.vm(), self.repository(tool), []
        for generation in range(4):
            self.backup(vm, tool=tool, to=to, says="vda since" if generation else "vda full")
            expected.append(self.models(vm))
            vm.scribble(self.rng)
        names = self.names(tool, to)
        self.assertEqual(len(names), 4)
        for name in names[:3:2]:
            self.remove(tool, to, name)
        self.backup(vm, "--keep", "last=2", tool=tool, to=to, says="removed")
        expected.append(self.models(vm))
        folder = self.extract(tool, to)
        self.assertEqual(sorted(os.listdir(folder))[0], names[3])
        for name, models in zip(sorted(os.listdir(folder)), expected[3:]):
            for disk, model in models.items():
                self.assertTrue(os.path.isdir(f"{folder}/{name}/{disk}/split"))
                self.assertTrue(self.restore(folder, "--at", name, "-d", disk) == model)

    def test_pieces_rsync(self):
        self.check_pieces("rsync")

    def test_pieces_restic(self):
        self.check_pieces("restic")

    def test_pieces_borg(self):
        self.check_pieces("borg")

    def check_broken_chain(self, tool, which):
        """Generation WHICH of three is removed: the next backup is full and can be restored."""
        if tool in ("restic", "borg") and self.shows_pieces():
            self.skipTest("this tool stores no chains")
        vm, to = self.vm("vda"), self.repository(tool)
        for _ in range(3):
            self.backup(vm, tool=tool, to=to)
            vm.scribble(self.rng)
        folder = self.extract(tool, to)
        names = sorted(os.listdir(folder))
        if folder != self.to + "/web":
            shutil.rmtree(folder)
        self.remove(tool, to, names[which])
        self.backup(vm, tool=tool, to=to, says="a full backup, because vda: its chain is broken: .*"
                                               "(is missing|is not in .*)\n(.*\n)*.*vda full")
        expected = bytes(vm.disks["vda"].model)
        vm.scribble(self.rng)
        self.backup(vm, tool=tool, to=to, says="vda since")
        folder = self.extract(tool, to)
        self.assertTrue(self.restore(folder) == vm.disks["vda"].model)
        newest = sorted(os.listdir(folder))[-2]
        self.assertTrue(self.restore(folder, "--at", newest) == expected)

    def test_full_backup_is_gone_qcow2(self):
        self.check_broken_chain("qcow2", 0)

    def test_increment_is_gone_raw(self):
        self.check_broken_chain("raw", 1)

    def test_full_backup_is_gone_tar(self):
        self.check_broken_chain("tar", 0)

    def test_increment_is_forgotten_restic(self):
        self.check_broken_chain("restic", 1)

    def test_full_backup_is_deleted_borg(self):
        self.check_broken_chain("borg", 0)

    def test_parts_of_a_generation_are_gone(self):
        """Even if its folder still exists."""
        for path, tool in (("vda/disk.qcow2", "qcow2"), ("vda/info.json", "qcow2"),
                           ("vda/disk.raw", "raw")):
            vm = self.vm("vda")
            self.backup(vm, tool=tool)
            vm.scribble(self.rng)
            self.backup(vm, tool=tool, says="vda since")
            vm.scribble(self.rng)
            first = min(self.generations())
            os.unlink(f"{self.to}/web/{first}/{path}")
            self.backup(vm, tool=tool, says="its chain is broken")
            self.assertTrue(self.restore(self.to + "/web", "--at", max(self.generations()))
                            == vm.disks["vda"].model)
            self.to = self.mkdir("another")

    def check_rsync(self, destination):
        """Stores generations of a folder like a mount in DESTINATION, another name of self.to."""
        class Mounted:
            path, folder, vm_files = self.mkdir("mnt"), self.mkdir("run"), ["vm.json"]

            @staticmethod
            def run(*argv, **kwargs):
                lib.run(*argv, env=self.env, **kwargs)

        tool, split = tools.Rsync(destination, "web"), Mounted.path + "/vda/split"
        os.makedirs(split)
        expected = []
        self.assertEqual(tool.generations(), {})
        for number in range(3):
            for piece in range(4):
                if number == 0 or piece == number:
                    with open(f"{split}/{piece:06}", "wb") as f:
                        f.write(os.urandom(4096))
                        f.truncate(lib.MIB)
                        os.utime(f.fileno(), (number * 10 + 1, number * 10 + 1))
            name = f"20261121T00000{number}Z-{number:016}"
            with open(Mounted.path + "/vda/info.json", "w") as f:
                json.dump({"size": 4 * lib.MIB, "restore_point": name, "contexts": []}, f)
            with open(Mounted.folder + "/vm.json", "w") as f:
                json.dump({"number": number, "generation": name, "series": "last"}, f)
            # Left by a killed run.
            os.makedirs(f"{self.to}/web/20261121T000009Z.partial/vda")
            tool.save(Mounted, ["./vda/info.json", "./vda/split"], name, number)
            expected.append((name, lib.run("sh", "-c", f"cat {split}/*", text=False)))
            self.assertEqual(sorted(os.listdir(self.to + "/web")), [n for n, _ in expected])
        self.assertEqual(tool.generations(), {n: i for i, (n, _) in enumerate(expected)})
        inodes = [{os.stat(f"{self.to}/web/{n}/vda/split/{p:06}").st_ino for p in range(4)}
                  for n, _ in expected]
        self.assertEqual([len(inodes[0] & inodes[1]), len(inodes[1] & inodes[2])], [3, 3])
        self.assertLess(os.stat(f"{self.to}/web/{expected[0][0]}/vda/split/000000").st_blocks, 64)
        self.assertEqual(keep.split(tool.inventory(), {"last": 2}), ([expected[0][0]], []))
        tool.discard(expected[0][0])
        for name, disk in expected[1:]:
            self.assertTrue(self.restore(self.to, "--at", name, "-O", "raw") == disk)
        self.assertEqual(len(tool.generations()), 2)

    def test_rsync(self):
        lib.require("rsync")
        self.check_rsync(self.to)

    def test_rsync_to_another_host(self):
        """Through a fake ssh: a shell on the other host splits the command."""
        lib.require("rsync")
        away = self.path("away $x")
        os.mkdir(away)
        self.to = away
        shell = self.path("ssh")
        with open(shell, "w") as f:
            f.write('#!/bin/sh\ntest "$1" = host || exit 255\nshift\nexec sh -c "$*"\n')
        os.chmod(shell, 0o755)
        os.environ["RSYNC_RSH"] = self.env["RSYNC_RSH"] = shell
        self.defer(os.environ.pop, "RSYNC_RSH")
        self.check_rsync("host:" + away)

    def test_rules_of_keep(self):
        """Days, hours and so on without a backup do not count; the newest is always kept."""
        os.environ["TZ"] = "UTC"
        time.tzset()
        names = [f"202611{day:02}T{hour:02}0000Z" for day in range(30, 0, -1) if day % 3
                 for hour in (23, 11)]
        for rule, expected in (
                ("last=3", names[:3]), ("daily=3", [names[i] for i in (0, 2, 4)]),
                ("weekly=2", ["20261129T230000Z", "20261122T230000Z"]), ("yearly=5", names[:1]),
                ("monthly=5", names[:1]), ("hourly=2", names[:2]), ("last=1,daily=2", names[:3:2])):
            self.assertEqual(keep.wanted(names, keep.parse(rule)), set(expected), rule)
        for rule in ("", "daily", "daily=x", "daily=-1", "daily=0", "dayly=3", "last=1,last=2"):
            with self.assertRaises(ValueError):
                keep.parse(rule)
        # Bases of kept generations stay; broken ones do not count and are not removed.
        for foldable, removals in ((False, (["g3", "g2", "g1", "f"], ["f"], ["f"], [])),
                                   (True, (["g3", "g2", "g1", "f"], ["g2", "g1", "f"], ["f"], []))):
            chain = {n: keep.Generation(series, needs, foldable) for n, series, needs in (
                ("g4", "last", set()), ("g3", "last", {"g1", "g2"}), ("g2", "last", {"g1"}),
                ("g1", "last", set()), ("g0", "last", None), ("f", "last", set()),
                ("w", "week", set()))}
            for rule, removed in zip(("last=1", "last=2", "last=4", "last=5"), removals):
                self.assertEqual(keep.split(chain, keep.parse(rule)), (removed, ["g0"]), rule)

    def check_keep(self, tool):
        if tool in ("restic", "borg") and self.shows_pieces():
            self.skipTest("this tool stores no chains")
        vm, to, expected = self.vm("vda"), self.repository(tool), []
        for options in ([], [], ["--full"], []):
            self.backup(vm, *options, tool=tool, to=to)
            expected.append(bytes(vm.disks["vda"].model))
            vm.scribble(self.rng)
        arguments = self.arguments(vm, "--keep", "last=1", "--dry-run", tool=tool, to=to)
        before = self.names(tool, to)
        for rule, removed in (("=1", 2), ("=3", 0)):
            # The third newest is the end of the first chain and needs all of it.
            done = lib.attempt(*(w.replace("=1", rule) for w in arguments), env=self.env)
            self.assertEqual((done.returncode, done.stderr.count("would be removed")), (0, removed),
                             done.stderr)
        self.assertEqual(self.names(tool, to), before)
        self.backup(vm, "--keep", "last=1", tool=tool, to=to, says="removed")
        expected.append(bytes(vm.disks["vda"].model))
        self.assertEqual(len(self.names(tool, to)), 3)
        self.assertEqual(self.names(tool, to)[:2], before[2:])
        folder = self.extract(tool, to)
        for name, model in zip(sorted(os.listdir(folder)), expected[2:]):
            self.assertTrue(self.restore(folder, "--at", name) == model)

    def names(self, tool, to):
        folder = self.extract(tool, to)
        names = sorted(os.listdir(folder))
        if folder != self.to + "/web":
            shutil.rmtree(folder)
        return names

    def test_keep_tar(self):
        self.check_keep("tar")

    def test_keep_restic(self):
        self.check_keep("restic")

    def test_keep_borg(self):
        self.check_keep("borg")

    def test_odd_names_of_vms(self):
        """Including names that /proc/self/mounts escapes, after a daemon was killed."""
        for name in ("a\\b", "we b", "x&y;z", "line\nbreak", "-dash", "...", "\x1b[2J"):
            vm = self.vm("vda")
            done = lib.attempt(scripts.BACKUP, "-o", "scratch=" + self.dir, "qcow2", self.to,
                               "--", f"{name}=qmp:{vm.monitor}", env=self.env)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertNotRegex(done.stderr, "[\x00-\x09\x0b-\x1f]")
            folder = f"{self.to}/{text.file_name(name)}"
            self.assertTrue(self.restore(folder) == vm.disks["vda"].model)
            # A mount of a run that was killed, with its daemon.
            mnt = f"{self.env['RUNTIME_DIRECTORY']}/{text.file_name(name)}/mnt"
            vm.quit()
            self.mount(vm.disks["vda"].image, point=mnt).kill()
            self.assertTrue(lib.is_mounted(mnt))
            lib.attempt(scripts.BACKUP, "qcow2", self.to, "--", f"{name}=qmp:/nonexistent",
                        env=self.env)
            self.assertFalse(lib.is_mounted(mnt))

    def test_image_of_a_vm_that_is_off(self):
        """It continues the VM's chain and does not change the image."""
        vm = self.vm("vda")
        self.backup(vm, says="vda full")
        vm.scribble(self.rng)
        self.backup(vm, says="vda since")
        vm.scribble(self.rng)
        vm.quit()
        image = self.mkdir("images") + "/vda.qcow2"
        os.rename(vm.disks["vda"].image, image)
        with open(image, "rb") as f:
            before = f.read()
        for _ in range(2):
            names = set(self.generations())
            done = lib.attempt(scripts.BACKUP, "qcow2", self.to, f"web={image}", env=self.env)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertRegex(done.stderr, "vda since")
            self.assertTrue(self.restore(self.to + "/web") == vm.disks["vda"].model)
            self.assertEqual(len(set(self.generations()) - names), 1)
        with open(image, "rb") as f:
            self.assertTrue(f.read() == before)
        # Full if the destination has another chain, or on request.
        self.to = self.mkdir("elsewhere")
        done = lib.attempt(scripts.BACKUP, "raw", self.to, image, env=self.env)
        self.assertRegex(done.stderr, "a full backup, because vda: .*\n.*vda full")
        self.assertTrue(self.restore(self.to + "/vda") == vm.disks["vda"].model)

    def test_too_few_processes(self):
        """Whichever process of --jobs cannot be started: each VM is reported, and nothing is left."""
        vms = {name: Vm(self, [Disk(self, "vda", size=4 * lib.MIB)]) for name in ("web", "db", "mail")}
        for vm in vms.values():
            vm.state = self.env["FLEECEFS_STATE_DIR"]
        group = Pids(self)
        for limit in (1, 2, 3, 4, 6, 8, 11, "max"):
            group.limit(limit)
            done = group.attempt(scripts.BACKUP, "-o", "scratch=" + self.dir, "--jobs=2", "--json",
                                 "qcow2", self.to, *(f"{n}=qmp:{v.monitor}" for n, v in vms.items()),
                                 env=self.env)
            group.limit("max")
            group.wait_empty()
            said = {one["vm"]: one["status"] for one in map(json.loads, done.stdout.splitlines())}
            self.assertEqual(said.keys(), vms.keys(), done.stderr)
            self.assertEqual(done.returncode, max(said.values(), key=[0, 3, 1].index), done.stderr)
            self.assertNotIn("Traceback", done.stderr)
            for name, vm in vms.items():
                if said[name] != 0:
                    self.assertIn(f"fleecefs-backup: {name}: FAILED: ", done.stderr)
                self.assertFalse(lib.is_mounted(f"{self.env['RUNTIME_DIRECTORY']}/{name}/mnt"))
                self.assertEqual(vm.leftovers(), [], (limit, done.stderr))
            if limit == 1:
                self.assertNotIn(0, said.values())
                self.assertRegex(done.stderr, "FAILED: cannot start a process: .*TasksMax=.*pids.max")
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_connect(self):
        """--connect applies to named domains, too: test:/// has no VMs of QEMU."""
        for source, options in (("libvirt:test", ["-c", "test:///default"]),
                                ("libvirt:test?connect=test:///default", ["-c", "qemu:///none"])):
            done = lib.attempt(scripts.BACKUP, *options, "qcow2", self.to, source, env=self.env)
            self.assertRegex(done.stderr, "this libvirt connection is for .*not QEMU|test:///default")
            self.assertEqual(done.returncode, 1)


if __name__ == "__main__":
    lib.main()
