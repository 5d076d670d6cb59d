#!/usr/bin/env python3
"""Runs the commands of README.md as printed, except for paths and names of VMs."""
import os
import re
import shlex
import subprocess

import disks
import lib
import scripts


def displays(title):
    """Returns the indented blocks of a section."""
    with open(lib.TOP + "/README.md") as f:
        section = f.read().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return re.findall(r"(?m)(?:^    .*\n)+", section)


def shell(commands, folder, mountpoint):
    """Runs COMMANDS in FOLDER, with MOUNTPOINT in place of /mnt."""
    program = " ".join(lib.FLEECEFS)
    lib.run("bash", "-euc", f'fleecefs() {{ {program} "$@"; }}\n' +
            commands.replace("/mnt", mountpoint), cwd=folder)


class Readme(lib.TestCase):
    def test_image_with_a_bitmap(self):
        _, first, second = displays("Other sources")
        image = disks.create(os.path.join(self.dir, "vm.qcow2"))
        disks.scribble(image, self.rng, 20)
        os.mkdir(self.dir + "/mnt")
        self.defer(lib.attempt, "umount", "-l", self.dir + "/mnt")
        shell(first, self.dir, self.dir + "/mnt")
        disks.scribble(image, self.rng, 20)
        shell(second, self.dir, self.dir + "/mnt")
        for copy in ("monday.qcow2", "restored.qcow2"):
            lib.run("qemu-img", "compare", image, os.path.join(self.dir, copy))

    def demo(self, *args):
        """Runs contrib/demo on the build that is tested."""
        build = os.path.dirname(os.path.dirname(lib.FLEECEFS[-1]))
        return lib.run(lib.TOP + "/contrib/demo", *args, env={**os.environ, "BUILD": build},
                       timeout=5 * lib.PATIENCE, stderr=subprocess.STDOUT)

    def test_demo(self):
        lib.require("ddrescue")
        said = self.demo()
        self.assertEqual(said.count("Images are identical."), 2, said)
        self.assertRegex(said, r"\ndemo: OK: [^\n]+\n\Z")

    def test_demo_of_an_image(self):
        image = disks.create(os.path.join(self.dir, "my disk.qcow2"), bitmaps=["b"])
        said = self.demo(image)
        for word in ("mnt/my disk/disk.raw", "mnt/my disk/dirty/b.pbm", "fusermount3 -u"):
            self.assertIn(word, said)


class Scripts(scripts.Base):
    def test_a_running_vm(self):
        vm = self.vm("vda")
        mnt = self.mkdir("mnt")
        self.defer(lib.attempt, "umount", "-l", mnt)
        commands, = displays("A running VM")
        for written, instead in (("-o agent=/run/vm.ga", "-o scratch=" + self.dir),
                                 ("/run/vm.qmp", vm.monitor)):
            self.assertIn(written, commands)
            commands = commands.replace(written, instead)
        shell(commands, self.dir, mnt)
        with open(self.plain(self.dir + "/full.qcow2"), "rb") as f:
            self.assertEqual(f.read(), bytes(vm.disks["vda"].model))
        # The next time, as the comment says.
        increment = re.search(r"next time (\S+)", commands)[1]
        shell(commands.replace("/mnt/vda/disk.qcow2 full", increment + " monday"), self.dir, mnt)
        self.assertTrue(os.path.exists(self.dir + "/monday.qcow2"))

    def test_every_night_and_back(self):
        lib.require("rsync", "restic")
        vm = self.vm("vda")
        self.to = self.mkdir("srv")
        self.env["RESTIC_REPOSITORY"] = self.to + "/restic"
        lib.run("restic", "init", env=self.env)
        os.mkdir(self.to + "/backups")
        os.mkdir(self.to + "/images")
        commands = [line for title in ("Every night", "Restore", "Look inside")
                    for line in "".join(displays(title)).splitlines()
                    if line.startswith("    fleecefs") and "fleecefs-changed" not in line]
        mnt = self.mkdir("mnt")
        self.defer(lib.attempt, "umount", "-l", mnt)
        # Without libvirtd; replaces the VM, its backups and the mount; all backups are of today.
        ran = [self.one(line, {"libvirt:web": "web=qmp:" + vm.monitor, "/srv": self.to,
                               "yesterday": "now", "tuesday": "now", "/mnt": mnt})
               for line in commands if "--all" not in line and "--define" not in line]
        self.assertEqual(len(ran), 9)
        self.assertFalse(lib.is_mounted(mnt))
        with open(self.plain(self.dir + "/vda.qcow2"), "rb") as f:
            self.assertEqual(f.read(), bytes(vm.disks["vda"].model))

    def one(self, line, other):
        name, *words = shlex.split(line, comments=True)
        for word, instead in other.items():
            words = [w.replace(word, instead) for w in words]
        program = lib.FLEECEFS if name == "fleecefs" else [f"{lib.TOP}/contrib/{name}"]
        if name == "fleecefs-backup":
            words[:0] = ["-o", "scratch=" + self.dir]
        return lib.run(*program, *words, cwd=self.dir, env=self.env)


if __name__ == "__main__":
    lib.main()
