#!/usr/bin/env python3
"""contrib/fleecefs-map with files of a mount and with backups stored by fleecefs-backup."""
import json
import os
import re
import shutil

import lib
import scripts

# Changes of the second and third of three generations, by maps, increments and mapfiles alike.
CHANGED = [("#ff0000", "0 B", "2"), ("#ff7f7f", "2 MiB", "1"), ("#ff7f7f", "3 MiB", "1")]
MAP = f"{lib.TOP}/contrib/fleecefs-map"


class Map(scripts.Base):
    def test_map(self):
        vm = self.vm("vda")
        maps = []
        for i in range(3):
            vm.write("vda", 0, 65536, i + 1)
            vm.write("vda", (i + 1) * lib.MIB, 65536, i + 1)
            with self.mount("qmp:" + vm.monitor, env=vm.environment(),
                            options=["-o", "scratch=" + self.dir]) as mount:
                maps.append(f"{self.to}/{i}.map")
                shutil.copy(mount / ("vda/dirty/last.map" if i else "vda/disk.map"), maps[i])
                self.fleecefs("--commit", "--force", mount.point)
        self.assertEqual(self.cells(*maps[1:]), CHANGED)
        self.assertIn("<svg", lib.run(MAP, *maps))
        with open(maps[1]) as f:
            text = f.read()
        short = text[:text.rstrip().rindex("\n") + 1]
        for broken, says in ((short, "truncated"), (text[:-30], "truncated"),
                             (text * 2, "does not start where"), ("", "truncated")):
            with open(maps[1], "w") as f:
                f.write(broken)
            done = lib.attempt(MAP, *maps)
            self.assertRegex(done.stderr, f"\\Afleecefs-map: .*{says}")
            self.assertEqual((done.returncode, done.stdout), (1, ""))

    def test_large_map(self):
        """A million extents of a 16 TiB disk: read line by line, in seconds."""
        path, step = self.path("map"), 16 * lib.TIB // 1000000
        with open(path, "w") as f:
            for i in range(1000000):
                f.write("%20d %20d %4d  %s\n" % (i * step, step, i & 1, ("clean", "dirty")[i & 1]))
        script = ("import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
                  "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")
        kib = lib.run("python3", "-c", script, MAP, "-o", self.path("svg"), path)
        self.assertLess(int(kib), 64 * 1024)

    def cells(self, *arguments, count=2):
        """Returns the changed cells of the picture, of 64 KiB each: (colour, offset, times)."""
        picture = self.path("svg")
        lib.run(MAP, "-o", picture, "-c", "8", "-r", "8", *arguments)
        lib.run("xmllint", "--noout", picture)
        with open(picture) as f:
            self.svg = f.read()
        found = re.findall(rf'fill="(#\w+)"><title>at (.*): (.*) of {count}<', self.svg)
        return [c for c in found if c[2] != "0"]

    def test_files(self):
        """Hot spots by file, from the output of fleecefs-changed."""
        changes, found = self.path("map"), self.path("json")
        with open(changes, "w") as f:
            f.write(f"0 {lib.MIB} 1 dirty\n{lib.MIB} {lib.MIB} 0 clean\n")

        def line(name, inode, *extents):
            return json.dumps({"part": "disk.raw", "path": name, "inode": inode, "kind": "data",
                               "extents": [{"start": 0, "disk": at, "length": length}
                                           for at, length in extents]}) + "\n"
        with open(found, "w") as f:
            f.write(line("var/log/<sys>\n", 5, (0, 40000), (65536, 5000)))
            f.write(line("another name of it", 5, (0, 40000), (65536, 5000)))
            f.write(line("home/a", 6, (70536, 9000)))
            f.write(json.dumps({"part": "disk.raw", "inode": 7, "kind": "deleted"}) + "\n")
        self.cells(changes, "--files", found, count=1)
        titles = re.findall(r"<title>at (\d.*?): .*?of 1(.*?)</title>", self.svg, re.S)
        self.assertEqual(dict(titles)["0 B"], "\nvar/log/&lt;sys&gt;\\n")
        self.assertEqual(dict(titles)["64 KiB"], "\nhome/a\nvar/log/&lt;sys&gt;\\n")
        self.assertEqual(re.findall(r"<text[^>]*>(\d\S* KiB)</text>\n<text[^>]*>([^<]*/[^<]*)</text>", self.svg),
                         [("43.95 KiB", "var/log/&lt;sys&gt;\\n"), ("8.789 KiB", "home/a")])
        for broken in ("x\n", "[]\n", line("a", 1, (2 * lib.MIB, 1)), line("a", 1, (0, -5))):
            with open(found, "w") as f:
                f.write(broken)
            done = lib.attempt(MAP, changes, "--files", found)
            self.assertIn(f"fleecefs-map: {found}:1 is of another disk", done.stderr)
            self.assertEqual((done.returncode, done.stdout), (1, ""))

    def test_what_is_stored(self):
        """Stored backups of each form, given by their folder and by the files in it."""
        for tool in ("qcow2", "raw"):
            vm = self.vm("vda")
            for i in range(3):
                vm.write("vda", 0, 65536, i + 1)
                vm.write("vda", (i + 1) * lib.MIB, 65536, i + 1)
                self.backup(vm, tool=tool)
            end = "qcow2" if tool == "qcow2" else "ddrescue"
            files = [f"{self.to}/web/{name}/vda/dirty/last.{end}"
                     for name in sorted(self.generations())[1:]]
            self.assertEqual(self.cells(*files), CHANGED)
            self.assertEqual(self.cells(self.to), CHANGED)
            # Offsets of the rows, and the scale.
            for words in (">0 B<", ">1 MiB<", ">3 MiB<", ">never changed<", ">in 2 of 2<"):
                self.assertIn(words, self.svg)
            self.to = self.mkdir("another")

    def test_pieces(self):
        """A piece has changed if it is not older than its generation."""
        lib.require("rsync")
        vm = self.vm("vda")
        vm.write("vda", 0, 65536, 1)
        for i in range(2):
            self.backup(vm, "-o", "split=1M", tool="rsync")
            vm.write("vda", 2 * lib.MIB, 65536, i + 1)
        self.backup(vm, "-o", "split=1M", tool="rsync")
        newest = f"{self.to}/web/{max(self.generations())}/vda/split"
        changed = self.cells(newest, count=1)
        self.assertEqual({c[1] for c in changed}, {"2 MiB", "2.5 MiB"})
        for folder in self.to, self.to + "/web":
            counts = {c[1]: c[2] for c in self.cells(folder, count=3)}
            self.assertEqual((counts["0 B"], counts["2 MiB"]), ("1", "3"), counts)

    def test_partitions(self):
        """From info.json; invalid members are left out, and markup is escaped."""
        vm = self.vm("vda")
        self.backup(vm)
        path = f"{self.to}/web/{self.generations()[0]}/vda"
        scripts.Scripts.change_info(path, partitions=[
            {"number": 1, "start": lib.MIB, "length": lib.MIB, "name": "<b>&"},
            {"number": 2, "start": 3 * lib.MIB, "length": 2 * lib.MIB}, {"start": "x"}, 7])
        self.cells(self.to, count=1)
        self.assertIn(">part1 &lt;b&gt;&amp;, 1 MiB<", self.svg)
        self.assertNotIn("part2", self.svg)

    def test_wrong(self):
        self.assertEqual(lib.attempt(MAP).returncode, 2)
        vm = self.vm()
        self.backup(vm)
        empty = self.mkdir("empty")
        for arguments, says in (([empty + "/x"], "x: No such file or directory"),
                                (["@x"], "@x: No such file.*"), ([self.to], "several disks, choose one with --disk: vda, vdb"),
                                ([self.to, "-d", "x"], "contains no disk x"), ([empty], "contains no disk")):
            done = lib.attempt(MAP, *arguments)
            self.assertRegex(done.stderr, f"\\Afleecefs-map: .*{says}\n\\Z")
            self.assertEqual((done.returncode, done.stdout), (1, ""))


    def test_files_that_cannot_be_read(self):
        """Messages name them."""
        for name, text, says in (("junk.qcow2", "junk" * 100, "junk.qcow2: it is not a qcow2"),
                                 ("junk.ddrescue", "junk", "junk.ddrescue is not a ddrescue mapfile"),
                                 ("junk.map", "junk", "junk.map is not a map"),
                                 ("cut.qcow2", "QFI\xfb\0\0\0\3", "cut.qcow2: it is truncated")):
            path = self.path(name)
            with open(path, "w", encoding="latin-1") as f:
                f.write(text)
            done = lib.attempt(MAP, path)
            self.assertRegex(done.stderr, rf"\Afleecefs-map: {self.dir}/\d+\.{says}[^\n]*\n\Z")
            self.assertEqual((done.returncode, done.stdout), (1, ""))
        pieces = self.mkdir("pieces") + "/split"
        os.mkdir(pieces)
        done = lib.attempt(MAP, pieces)
        self.assertEqual((done.returncode, done.stderr),
                         (1, f"fleecefs-map: {pieces} contains no pieces\n"))
        with open(pieces + "/x", "w"):
            pass
        self.assertIn(f"{pieces}: x is not a piece", lib.attempt(MAP, pieces).stderr)

    def test_output(self):
        """A picture that cannot be written leaves the old one."""
        changes, folder = self.path("x.map"), self.mkdir("folder")
        with open(changes, "w") as f:
            f.write("0 4194304 1 dirty\n")
        with open("/dev/full", "w") as full:
            done = lib.attempt(MAP, changes, stdout=full)
        self.assertEqual((done.returncode, done.stderr),
                         (1, "fleecefs-map: stdout: No space left on device\n"))
        picture = folder + "/hot.svg"
        lib.run(MAP, changes, "-o", picture)
        with open(picture) as f:
            old = f.read()
        done = lib.attempt("sh", "-c", 'ulimit -f 1; trap "" XFSZ; exec "$@"', "sh", MAP, changes, changes,
                           "-r", "200", "-o", picture)
        self.assertEqual((done.returncode, done.stderr),
                         (1, f"fleecefs-map: {picture}: File too large\n"))
        with open(picture) as f:
            self.assertEqual(f.read(), old)
        self.assertEqual(os.listdir(folder), ["hot.svg"])
        for words in ((changes, "-o", ""), ("",)):
            done = lib.attempt(MAP, *words)
            self.assertRegex(done.stderr, "error: the name of .* is empty\n\\Z")
            self.assertEqual(done.returncode, 2)
        self.assertEqual(lib.attempt(MAP, changes, "-o", folder).stderr,
                         f"fleecefs-map: {folder}: Is a directory\n")


if __name__ == "__main__":
    lib.main()
