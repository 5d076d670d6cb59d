#!/usr/bin/env python3
"""The recipes of fleecefs(1): exactly the commands that the manual prints, from each kind of source.

A recipe is the display below a line '.\\" recipe: NAME'. Each tool's `full` and `increment` run in a
folder with an empty folder `mnt`; what restores must make restored.qcow2 or restored.raw.
"""
import json
import os
import re
import shutil
import time

import disks
import lib
from vm import Disk, Vm

MANUAL = os.path.join(os.path.dirname(__file__), "../../src/fleecefs.1")
TOOLS = {"cp": "cp", "rsync": "rsync", "qemu-img": "qemu-img", "restic": "restic", "borg": "borg",
         "tar": "tar", "tar-raw": "ddrescue", "bsdtar": "bsdtar", "ddrescue": "ddrescue"}
RESTORES = {tool: [tool + " restore"] for tool in TOOLS} | {
    "ddrescue": [],
    **{tool: [tool + " restore", "qcow2 chain"] for tool in ("restic", "borg", "tar")},
    **{tool: [tool + " restore", "raw chain"] for tool in ("tar-raw", "bsdtar")}}
PIECE_TOOLS = ("rsync", "restic", "borg", "rsnapshot", "tar", "bsdtar", "bup", "rclone")
DAYS = ("full", "monday", "tuesday", "wednesday", "thursday", "friday")
SIZE = 16 * lib.MIB


def recipes():
    """Returns the commands of each recipe, as a shell reads them."""
    with open(MANUAL) as f:
        found = re.findall(r'^\.\\" recipe: (.*)\n\.Bd -literal.*\n((?:.*\n)*?)\.Ed$', f.read(), re.M)
    return {name: text.replace("\\-", "-").replace("\\e", "\\") for name, text in found}


class ImageSource:
    """The image of a VM that is shut down."""
    name = "image"

    def __init__(self, test):
        self.test = test
        self.image = disks.create(os.path.join(test.dir, "vda.qcow2"), size=SIZE)

    def write(self, *commands):
        disks.qemu_io(self.image, commands)


class NbdSource(ImageSource):
    """A server of an image with a bitmap."""
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


class Recipes(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.recipes = recipes()
        self.mnt = os.path.join(self.dir, "mnt")
        os.mkdir(self.mnt)
        self.defer(self._unmount)
        self.env = {**self.environment(), "RESTIC_PASSWORD": "x", "BORG_PASSPHRASE": "x"}

    def _unmount(self):
        if lib.is_mounted(self.mnt):
            lib.run("umount", "-l", self.mnt)

    def follow(self, name, day=0, **others):
        """Runs the manual's commands for Monday on DAY: lists contain the days until then, and
        an increment is based on the day before. OTHERS: replacements of words on that day."""
        self.assertIn(name, self.recipes)
        base = DAYS[max(day - 1, 0)] if name.endswith("increment") else DAYS[0]
        said = {"full monday tuesday": " ".join(DAYS[:day + 1]), "full": base,
                "monday tuesday": " ".join(DAYS[1:day + 1]), "monday": DAYS[day]}
        script = re.sub("(?<!-)\\b(full monday tuesday|monday tuesday|full|monday)\\b",
                        lambda match: said[match[0]], self.recipes[name])
        for word, other in others.items():
            script = script.replace(word, other)
        argv = ["bash", "-euo", "pipefail", "-c", script]
        if os.geteuid() == 0:
            # Without root's override of permissions, so that read-only files are noticed.
            argv = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *argv]
        lib.run(*argv, cwd=self.dir, env=self.env)

    def mount(self, source):
        if source.name == "nbd":
            source.serve()
        self.follow(f"{source.name} mount")

    def done(self, source, kind):
        self.follow({"image": f"image {kind}-done"}.get(source.name, f"{source.name} done"))
        if source.name == "nbd":
            source.end()
            lib.run("qemu-img", "bitmap", "--clear", source.image, "last")
        self.assertFalse(lib.is_mounted(self.mnt))

    def back_up(self, source, tool, day):
        kind = "increment" if day else "full"
        self.mount(source)
        self.follow(f"{tool} {kind}", day)
        self.done(source, kind)

    def restore(self, tool, day):
        """Restores the disk of DAY with all recipes that apply."""
        for recipe in RESTORES[tool]:
            self.follow(recipe, day)
        path = os.path.join(self.dir, "restored.raw")
        if not os.path.exists(path):
            disks.raw_bytes(self.dir + "/restored.qcow2", path)
        with open(path, "rb") as f:
            return f.read()

    def check(self, source, tool):
        """Takes a full backup and increments, then restores every day."""
        lib.require(TOOLS[tool], "qemu-img")
        contents, disk = [], bytearray(SIZE)

        def write(kib, length, byte):
            source.write(f"write -q -P {byte} {kib}k {length}k" if byte else
                         f"write -q -z -u {kib}k {length}k")
            disk[kib * lib.KIB:(kib + length) * lib.KIB] = bytes([byte]) * (length * lib.KIB)

        write(0, 3072, 17)
        write(8192, 1024, 34)
        for day in range(6 if tool in ("restic", "borg") else 3):
            contents.append(bytes(disk))
            self.back_up(source, tool, day)
            if tool == "ddrescue":
                self.assertTrue(self.restore(tool, day) == contents[day], DAYS[day])
            # Overwritten, zeroed and new data.
            write(1024, 64, day + 51)
            write(day * 256 + 64, 128, 0)
            write((day + 10) * 1024, 64, day + 68)
        for day in range(0 if tool == "ddrescue" else len(contents)):
            self.assertTrue(self.restore(tool, day) == contents[day], DAYS[day])
            for name in ("restored.raw", "restored.qcow2", *DAYS):
                path = os.path.join(self.dir, name)
                if os.path.isdir(path):
                    shutil.rmtree(path)
                elif os.path.exists(path):
                    os.unlink(path)

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

    def wait_past(self, second):
        """Waits until the clock has left SECOND."""
        while int(time.time()) <= second:
            time.sleep(0.02)

    def back_up_pieces(self, tool, day, most):
        """Backs up with TOOL on DAY; it must not read more than MOST bytes."""
        self.follow("qmp mount")
        if tool == "bup":
            # It treats files younger than a second as changed the next time.
            self.wait_past(int(os.stat(self.mnt + "/vda/split/000000").st_mtime) + 1)
        full = f"pieces {tool} full"
        self.follow(full if day == 0 and full in self.recipes else f"pieces {tool}", day)
        with open(self.mnt + "/.fleecefs/status.json") as f:
            read = json.load(f)["exports"][0]["bytes_read"]
        # Parallel readers cause some double reads. rclone drops pages, including read-ahead ones,
        # so it may read everything twice.
        most = most * 2 if tool == "rclone" else most * 5 // 4
        self.assertLessEqual(read, most + 64 * lib.KIB, DAYS[day])
        self.follow("qmp done")
        # borg allows one archive per second.
        self.wait_past(int(time.time()))

    def check_pieces(self, tool):
        """Tools that store complete disks read only what has changed; generations are independent."""
        lib.require(tool)
        source, contents, disk = QmpSource(self), [], bytearray(SIZE)
        source.write(f"write -P 17 0 {SIZE}")
        disk[:] = bytes([17]) * SIZE
        if f"pieces {tool} init" in self.recipes:
            self.follow(f"pieces {tool} init")
        # Listing the folder reads the partition table. Incremental archives of tar need the full one.
        most = (SIZE, 0, 4 * lib.MIB, 4 * lib.MIB if "tar" in tool else 0, 8 * lib.MIB)
        for day, limit in enumerate(most):
            if day == 2:
                source.write("write -P 34 5M 4k")
                disk[5 * lib.MIB:5 * lib.MIB + 4096] = bytes([34]) * 4096
            elif day == 4:
                source.write("write -z 1M 4M")
                disk[lib.MIB:5 * lib.MIB] = bytes(4 * lib.MIB)
            contents.append(bytes(disk))
            self.back_up_pieces(tool, day, limit)
        self.drop_first(tool, 2)
        # rclone stores a mirror.
        for day in range(4 if tool == "rclone" else 2, len(most)):
            self.follow(f"pieces {tool} restore", day, **{"daily.0": f"daily.{len(most) - 1 - day}"})
            with open(self.dir + "/restored.raw", "rb") as f:
                self.assertTrue(f.read() == contents[day], DAYS[day])

    def drop_first(self, tool, count):
        """Retention: removes the first COUNT backups, with the tool's own command if it has one."""
        if tool in ("restic", "borg"):
            self.follow(f"pieces {tool} prune")
        elif tool == "bup":
            for day in range(count):
                self.follow("pieces bup prune", day)
        elif tool == "rsync":
            for day in range(count):
                shutil.rmtree(os.path.join(self.dir, DAYS[day]))
        elif "tar" in tool:
            for day in range(1, count):
                os.unlink(os.path.join(self.dir, DAYS[day] + ".tar"))

    def test_pieces_by_rsync(self):
        self.check_pieces("rsync")
        self.follow("pieces look", 4)
        lib.run("cmp", f"{self.mnt}/{DAYS[4]}/disk.raw", self.dir + "/restored.raw")
        lib.run("fusermount3", "-u", self.mnt)

    def test_every_recipe_is_run(self):
        known = {f"{tool} {part}" for tool in TOOLS for part in ("full", "increment")}
        known |= {recipe for all_of_it in RESTORES.values() for recipe in all_of_it}
        known |= {"image mount", "image full-done", "image increment-done", "nbd mount", "nbd done",
                  "qmp mount", "qmp done", "debugfs", "pieces look"}
        known |= {f"pieces {tool}{part}" for tool in PIECE_TOOLS for part in ("", " restore")}
        known |= {f"pieces {tool} init" for tool in ("restic", "borg", "bup", "rsnapshot")}
        known |= {f"pieces {tool} prune" for tool in ("restic", "borg", "bup")}
        known |= {f"pieces {tool} full" for tool in ("tar", "bsdtar")}
        self.assertEqual(set(self.recipes), known)


def make(tool, source):
    return lambda self: self.check(source(self), tool)


def make_pieces(tool):
    return lambda self: self.check_pieces(tool)


for _tool in PIECE_TOOLS:
    if not hasattr(Recipes, f"test_pieces_by_{_tool}"):
        setattr(Recipes, f"test_pieces_by_{_tool}", make_pieces(_tool))
# Each tool, and with LONG=1 each with every source; otherwise each source with a third of the tools.
for _number, _tool in enumerate(TOOLS):
    for _other, _source in enumerate((ImageSource, NbdSource, QmpSource)):
        if os.environ.get("LONG") == "1" or (_number + _other + lib.SEED) % 3 == 0:
            setattr(Recipes, f"test_{_tool.replace('-', '_')}_from_{_source.name}",
                    make(_tool, _source))


if __name__ == "__main__":
    lib.main()
