#!/usr/bin/env python3
"""The commands of README.md, run as printed, but for paths and what they back up."""
import os
import re
import shlex
import subprocess

import disks
import lib
import scripts


def displays(title):
    """The indented blocks of a section."""
    with open(lib.TOP + "/README.md") as f:
        section = f.read().partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    return re.findall(r"(?m)(?:^    .*\n)+", section)


class Readme(lib.TestCase):
    def test_image_with_a_bitmap(self):
        _, first, second = displays("Other sources")
        image = disks.create(os.path.join(self.dir, "vm.qcow2"))
        disks.scribble(image, self.rng, 20)
        os.mkdir(self.dir + "/mnt")
        self.defer(lib.attempt, "umount", "-l", self.dir + "/mnt")
        self.shell(first)
        disks.scribble(image, self.rng, 20)
        self.shell(second)
        for copy in ("monday.qcow2", "restored.qcow2"):
            lib.run("qemu-img", "compare", image, os.path.join(self.dir, copy))

    def shell(self, commands):
        program = " ".join(lib.FLEECEFS)
        lib.run("bash", "-euc", f'fleecefs() {{ {program} "$@"; }}\n' +
                commands.replace("/mnt", self.dir + "/mnt"), cwd=self.dir)

    def demo(self, *args):
        """Runs contrib/demo on the build that is tested."""
        build = os.path.dirname(os.path.dirname(lib.FLEECEFS[-1]))
        return lib.run(lib.TOP + "/contrib/demo", *args, env={**os.environ, "BUILD": build},
                       timeout=5 * lib.PATIENCE, stderr=subprocess.STDOUT)

    def test_demo(self):
        lib.require("ddrescue")
        said = self.demo()
        self.assertEqual(said.count("Images are identical."), 2, said)
        self.assertRegex(said, r"\ndemo: fine: [^\n]+\n\Z")

    def test_demo_of_an_image(self):
        image = disks.create(os.path.join(self.dir, "my disk.qcow2"), bitmaps=["b"])
        said = self.demo(image)
        for word in ("mnt/my disk/disk.raw", "mnt/my disk/dirty/b.pbm", "fusermount3 -u"):
            self.assertIn(word, said)


class Scripts(scripts.Base):
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
        # libvirtd is not there; the VM, its backups and the mount are elsewhere; all is of today.
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
