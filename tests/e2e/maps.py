#!/usr/bin/env python3
"""-o map=: changes reported by other tools, shown as a bitmap, compared to QEMU's own bitmap."""
import filecmp
import json
import os

import disks
import lib
from nbdserver import Export, HangUp, NbdServer


class Maps(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.image = disks.create(os.path.join(self.dir, "vm.qcow2"), bitmaps=["b"])
        disks.scribble(self.image, self.rng, 40)
        self.raw = self.path("disk.raw")
        disks.raw_bytes(self.image, self.raw)

    def text(self, name, text):
        path = self.path(name)
        with open(path, "w") as f:
            f.write(text)
        return path

    def from_bitmap(self, *options):
        """Returns nbdinfo's map of the image's bitmap."""
        server = self.qemu_nbd(self.image, "-r", "-B", "b")
        return lib.run("nbdinfo", *options, "--map=qemu:dirty-bitmap:b", server.uri)

    def extents(self):
        """Returns the dirty extents of the image's bitmap: [(offset, length)]."""
        return [(e["offset"], e["length"]) for e in json.loads(self.from_bitmap("--json"))
                if e["type"] == 1]

    def check(self, file, *sources):
        """Asserts that FILE as a map over SOURCES (the image as raw) equals the image's own bitmap."""
        with self.mount(self.image) as mount:
            folder = mount / "vm/dirty"
            own = {name.partition(".")[2]: self.path("own") for name in os.listdir(folder)}
            for kind, path in own.items():
                own[kind] = path + "." + kind
                lib.run("cp", "--sparse=always", f"{folder}/b.{kind}", own[kind])
            expected = mount.json("vm/info.json")["contexts"]
        with self.mount(*(sources or [self.raw]), options=["-o", f"map=x:{file}"]) as mount:
            disk, = mount.folders()
            folder = disk + "/dirty"
            self.assertEqual(sorted(os.listdir(mount / folder)), sorted("x." + k for k in own))
            for kind in ("raw", "map", "ddrescue"):
                self.assertTrue(filecmp.cmp(mount / f"{folder}/x.{kind}", own[kind],
                                            shallow=False), kind)
            lib.run("qemu-img", "check", mount / f"{folder}/x.qcow2")
            with open(mount / f"{folder}/x.json") as ours, open(own["json"]) as theirs:
                self.assertEqual(self.dirty_bytes(json.load(ours)),
                                 self.dirty_bytes(json.load(theirs)))
            info = mount.json(disk + "/info.json")
            found = [c for c in info["contexts"] if c.get("bitmap") == "x"]
            self.assertEqual([c["dirty_bytes"] for c in found],
                             [c["dirty_bytes"] for c in expected if c.get("bitmap") == "b"])
        return own

    @staticmethod
    def dirty_bytes(rows):
        return sum(row["length"] for row in rows if row["dirty"])

    def test_nbdinfo(self):
        self.check(self.text("lines", self.from_bitmap()))
        self.check(self.text("json", self.from_bitmap("--json")))

    def test_rbd_diff(self):
        rows = [{"offset": offset, "length": length, "exists": self.rng.choice(["true", "false"])}
                for offset, length in self.extents()]
        self.check(self.text("rbd", json.dumps(rows)))

    def test_own_files_over_any_source(self):
        server = self.nbdkit("file", self.raw)
        own = self.check(self.text("lines", self.from_bitmap()), server.uri)
        for kind in ("map", "json", "ddrescue"):
            self.check(own[kind], "[", "nbdkit", "file", self.raw, "]")

    def test_ddrescue(self):
        """ddrescue copies our domain; its own mapfile shows the same changes."""
        lib.require("ddrescue")
        with self.mount(self.image) as mount:
            domain, done = self.path("domain"), self.path("done")
            lib.run("cp", mount / "vm/dirty/b.ddrescue", domain)
            lib.run("ddrescue", "-q", "--domain-mapfile=" + domain, self.raw, self.path("out"),
                    done)
        self.check(done)

    def test_thin_delta(self):
        """Two thin volumes; the second is the first with the bitmap's blocks written."""
        lib.require("thin_delta", "thin_restore")
        block = 64 * lib.KIB
        changed = {b for offset, length in self.extents()
                   for b in range(offset // block, -(-(offset + length) // block))}
        count = -(-os.stat(self.raw).st_size // block)
        metadata = self.path("metadata")
        devices = ""
        for device in (1, 2):
            mappings = "".join(
                f'<single_mapping origin_block="{b}" time="0" '
                f'data_block="{b + count * (device - 1) * (b in changed)}"/>' for b in range(count))
            devices += (f'<device dev_id="{device}" mapped_blocks="{count}" transaction="0" '
                        f'creation_time="0" snap_time="0">{mappings}</device>')
        pool = self.text("pool", '<superblock uuid="" time="0" transaction="0" version="2" '
                         f'data_block_size="{block // 512}" nr_data_blocks="{2 * count}">'
                         f'{devices}</superblock>')
        with open(metadata, "wb") as f:
            f.truncate(16 * lib.MIB)
        lib.run("thin_restore", "-i", pool, "-o", metadata)
        for options in ([], ["--verbose"]):
            said = lib.run("thin_delta", *options, "--thin1", "1", "--thin2", "2", metadata)
            self.check(self.text("delta", said))

    def test_over_an_image_with_bitmaps(self):
        """Several maps beside the image's own bitmaps."""
        lines = self.text("lines", self.from_bitmap())
        with self.mount(self.image, options=["-o", f"map=x:{lines},map=y:{lines}"]) as mount:
            self.assertEqual({name.partition(".")[0] for name in os.listdir(mount / "vm/dirty")},
                             {"b", "x", "y"})
            self.assertTrue(filecmp.cmp(mount / "vm/dirty/b.raw", mount / "vm/dirty/y.raw",
                                        shallow=False))

    def test_connection_that_drops(self):
        """The server does not know the map, so it is not requested on reconnect."""
        size = lib.MIB
        data = self.rng.randbytes(size)
        export = Export(size, data, {"base:allocation": [(0, size, 0)]})
        server = NbdServer(self, {"": export})
        lines = self.text("lines", f"0 {size // 2} 0 clean\n{size // 2} {size // 2} 1 dirty\n")
        dropped = []

        def drop_once(offset, length):
            if not dropped:
                dropped.append(offset)
                raise HangUp

        with self.mount(server.uri(), options=["-o", f"map=x:{lines}"]) as mount:
            mount.read("default/dirty/x.map")
            export.on_read = drop_once
            self.assertEqual(mount.read("default/dirty/x.raw", "rb"),
                             bytes(size // 2) + data[size // 2:])
            self.assertTrue(dropped)

    def test_refused(self):
        lines = self.from_bitmap()
        whole, cut = self.text("lines", lines), self.text("cut", lines[:lines.rindex("\n", 0, -2) + 1])
        point = self.mkdir("point")
        for value, sources, says in (
                ("x", [self.raw], ["NAME:FILE"]),
                (f"x:{self.path('absent')}", [self.raw], ["absent", "No such file"]),
                (f"x:{cut}", [self.raw], ["cut, line", "is truncated, or of another disk"]),
                (f"b:{whole}", [self.image], ["already has a bitmap b"]),
                (f"x:{whole}", [self.raw, self.image], ["give one source"]),
                (f"x:{self.raw}", [self.raw], ["disk.raw, line 1"])):
            status = 2 if "NAME:FILE" in says or "give one source" in says else 1
            self.assert_refused("-o", f"map={value}", *sources, point, status=status, says=says)
        two = self.storage_daemon({"a": (self.image, []), "b": (self.image, [])})
        self.assert_refused("-o", f"map=x:{whole}", two.uri, point, says=["has several"])


if __name__ == "__main__":
    lib.main()
