#!/usr/bin/env python3
"""What README.md promises: its first command, and its section of backup and restore, as printed."""
import os
import re
import subprocess

import disks
import lib


class Readme(lib.TestCase):
    def test_backup_and_restore(self):
        lib.require("ddrescue")
        with open(lib.TOP + "/README.md") as f:
            section = f.read().partition("## Backup and restore")[2].partition("\n## ")[0]
        # The commands of the first day, then those of the second.
        first, *second = re.findall(r"(?m)(?:^    .*\n)+", section)
        self.assertGreater(len(second), 2)
        image = disks.create(os.path.join(self.dir, "vm.qcow2"))
        disks.scribble(image, self.rng, 20)
        os.mkdir(self.dir + "/mnt")
        self.defer(lib.attempt, "umount", "-l", self.dir + "/mnt")
        self.shell(first)
        disks.scribble(image, self.rng, 20)
        self.shell("".join(second))
        for copy in ("monday.qcow2", "restored.qcow2", "full.raw"):
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


if __name__ == "__main__":
    lib.main()
