#!/usr/bin/env python3
"""The recipes of fleecefs(1): exactly the commands that the manual prints, from each kind of source.

A recipe is the display below a line '.\\" recipe: NAME'. Each tool's `full` and `increment` run in a
folder with an empty folder `mnt`, its `restore` must make restored.qcow2.
"""
import os
import re
import shlex

import disks
import lib
from vm import Disk, Vm

MANUAL = os.path.join(os.path.dirname(__file__), "../../src/fleecefs.1")
TOOLS = {"cp": "cp", "rsync": "rsync", "qemu-img": "qemu-img", "restic": "restic", "borg": "borg",
         "tar": "tar", "tar-raw": "ddrescue", "bsdtar": "bsdtar", "ddrescue": "ddrescue"}
SIZE = 16 * lib.MIB


def recipes():
    """The commands of each recipe, as a shell reads them."""
    with open(MANUAL) as f:
        found = re.findall(r'^\.\\" recipe: (.*)\n\.Bd -literal.*\n((?:.*\n)*?)\.Ed$', f.read(), re.M)
    return {name: text.replace("\\-", "-").replace("\\e\n", "\\\n") for name, text in found}


class ImageSource:
    """The image of a VM that is shut down."""
    name = "image"

    def __init__(self, test):
        self.test = test
        self.image = disks.create(os.path.join(test.dir, "vda.qcow2"), size=SIZE)

    def write(self, *commands):
        disks.qemu_io(self.image, commands)

    def content(self):
        return disks.raw_bytes(self.image, self.test.path("content"))


class NbdSource(ImageSource):
    """A server, here of an image with a bitmap."""
    name = "nbd"

    def __init__(self, test):
        super().__init__(test)
        disks.add_bitmap(self.image, "last")

    def serve(self):
        self.server = self.test.qemu_nbd(self.image, "-r", "-f", "qcow2", "-x", "vda", "-B", "last")
        os.rename(self.server.path, os.path.join(self.test.dir, "nbd.sock"))

    def end(self):
        self.server.kill()


class QmpSource:
    """A running VM."""
    name = "qmp"

    def __init__(self, test):
        self.test = test
        self.vm = Vm(test, [Disk(test, "vda", size=SIZE)])
        os.symlink(self.vm.monitor, os.path.join(test.dir, "vm.sock"))

    def write(self, *commands):
        for command in commands:
            self.vm.io("vda", command.replace("-q ", ""))

    def content(self):
        self.vm.quit()
        return disks.raw_bytes(self.vm.disks["vda"].image, self.test.path("content"))


class Recipes(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.recipes = recipes()
        self.mnt = os.path.join(self.dir, "mnt")
        os.mkdir(self.mnt)
        self.defer(self._unmount)
        self.environment = {**self.environment(), "RESTIC_PASSWORD": "x", "BORG_PASSPHRASE": "x"}

    def _unmount(self):
        if lib.is_mounted(self.mnt):
            lib.run("umount", "-l", self.mnt)

    def follow(self, name):
        """Runs what the manual says."""
        self.assertIn(name, self.recipes)
        script = "set -e\n" + self.recipes[name]
        lib.run("bash", "-c", script, cwd=self.dir, env=self.environment)

    def mount(self, source):
        if source.name == "nbd":
            source.serve()
        self.follow(f"{source.name} mount")

    def done(self, source, kind):
        self.follow({"image": f"image {kind}-done"}.get(source.name, f"{source.name} done"))
        if source.name == "nbd":
            source.end()
            if kind == "full":
                lib.run("qemu-img", "bitmap", "--clear", source.image, "last")
        self.assertFalse(lib.is_mounted(self.mnt))

    def check(self, source, tool):
        lib.require(TOOLS[tool], "qemu-img")
        source.write("write -q -P 17 0 3M", "write -q -P 34 8M 1M")
        self.mount(source)
        self.follow(f"{tool} full")
        self.done(source, "full")
        # Data that is new, that is overwritten, and that becomes zeros.
        source.write("write -q -P 51 1M 64k", "write -q -z -u 2M 512k", "write -q -P 68 12M 64k")
        self.mount(source)
        self.follow(f"{tool} increment")
        self.done(source, "increment")
        expected = source.content()
        self.follow(f"{tool} restore")
        restored = disks.raw_bytes(os.path.join(self.dir, "restored.qcow2"), self.path("restored"))
        self.assertTrue(restored == expected, f"{tool} of {source.name}")

    def test_single_files(self):
        lib.require("debugfs", "mke2fs")
        content, raw = self.mkdir("content"), self.path("raw")
        os.mkdir(content + "/etc")
        with open(content + "/etc/hostname", "w") as f:
            f.write("guest\n")
        lib.run("mke2fs", "-q", "-t", "ext4", "-d", content, raw, "8M")
        lib.run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, self.dir + "/vda.qcow2")
        self.follow("image mount")
        self.follow("debugfs")
        with open(self.dir + "/hostname") as f:
            self.assertEqual(f.read(), "guest\n")
        lib.run("fusermount3", "-u", self.mnt)

    def test_every_recipe_is_run(self):
        known = {f"{tool} {part}" for tool in TOOLS for part in ("full", "increment", "restore")}
        known |= {"image mount", "image full-done", "image increment-done", "nbd mount", "nbd done",
                  "qmp mount", "qmp done", "debugfs"}
        self.assertEqual(set(self.recipes), known)


def make(tool, source):
    return lambda self: self.check(source(self), tool)


# All tools on an image; on the others those that differ in which files they take.
for _tool in TOOLS:
    for _source in (ImageSource, NbdSource, QmpSource):
        if _source is ImageSource or _tool in ("cp", "ddrescue"):
            setattr(Recipes, f"test_{_tool.replace('-', '_')}_from_{_source.name}",
                    make(_tool, _source))


if __name__ == "__main__":
    lib.main()
