#!/usr/bin/env python3
"""Folders and files of the tree, for each kind of source."""
import os

import disks
import lib
from nbdserver import DIRTY, Export, NbdServer


def export_files(export, bitmaps=(), alloc=True, depth=True):
    """Returns the files in an export's folder."""
    names = ["disk.raw", "disk.qcow2", "info.json"]
    names += ["disk.map", "disk.json"] if alloc else []
    names += ["depth.map"] if depth else []
    names += [f"dirty/{bitmap}.{kind}" for bitmap in bitmaps
              for kind in ("raw", "qcow2", "map", "json", "ddrescue", "pbm")]
    return sorted(f"{export}/{name}" for name in names)


class Tree(lib.TestCase):
    def assert_tree(self, mount, *expected):
        found = mount.files()
        self.assertEqual(found, sorted(sum(expected, [])))

    def disk(self, name="vm.qcow2", bitmaps=("b0", "b1")):
        image = disks.create(os.path.join(self.mkdir("images"), name), bitmaps=bitmaps)
        disks.scribble(image, self.rng, 5)
        return image

    def test_image_file(self):
        with self.mount(self.disk("vm.disk.qcow2")) as mount:
            self.assert_tree(mount, export_files("vm.disk", ["b0", "b1"]))
            self.assertEqual(sorted(os.listdir(mount.point)), [".fleecefs", "vm.disk"])
            self.assertLessEqual({"status.json", "metrics"}, set(os.listdir(mount / ".fleecefs")))
            mount.json(".fleecefs/status.json")
            self.assertTrue(mount.read(".fleecefs/metrics").endswith("# EOF\n"))

    def test_raw_image_without_bitmaps(self):
        image = self.path("plain")
        with open(image, "wb") as f:
            f.truncate(lib.MIB)
        with self.mount(image) as mount:
            export = os.path.basename(image).rpartition(".")[0]
            self.assert_tree(mount, export_files(export))

    def test_qemu_nbd(self):
        server = self.qemu_nbd(self.disk(), "-r", "-f", "qcow2", "-A", "-B", "b0", "-B", "b1")
        with self.mount(server.uri) as mount:
            self.assert_tree(mount, export_files("default", ["b0", "b1"]))

    def test_tcp(self):
        server = self.nbdkit("memory", "1M", tcp=True)
        with self.mount(server.uri) as mount:
            self.assert_tree(mount, export_files("default", depth=False))

    def test_storage_daemon_with_several_exports(self):
        a, b = self.disk("a.qcow2"), self.disk("b.qcow2")
        server = self.storage_daemon({"vda": (a, ["b0", "b1"]), "vdb": (b, ["b1"]), "c": (b, [])})
        with self.mount(server.uri) as mount:
            self.assert_tree(mount, export_files("vda", ["b0", "b1"]),
                             export_files("vdb", ["b1"]), export_files("c"))
        with self.mount(server.export_uri("vdb")) as mount:
            self.assert_tree(mount, export_files("vdb", ["b1"]))

    def test_nbdkit(self):
        with self.mount(self.nbdkit("memory", "1M").uri) as mount:
            self.assert_tree(mount, export_files("default", depth=False))

    def test_without_extents(self):
        with self.mount(self.nbdkit("--filter=noextents", "memory", "1M").uri) as mount:
            self.assertEqual(mount.read("default/disk.map").split(), ["0", "1048576", "0", "data"])

    def test_without_structured_replies(self):
        with self.mount(self.nbdkit("--no-sr", "memory", "1M").uri) as mount:
            self.assert_tree(mount, export_files("default", alloc=False, depth=False))

    def test_old_protocol_cannot_list(self):
        with self.mount(self.nbdkit("--oldstyle", "memory", "1M").uri) as mount:
            self.assert_tree(mount, export_files("default", alloc=False, depth=False))

    def test_server_that_refuses_to_list(self):
        server = NbdServer(self, {"": Export(4096, bytes(4096)), "x": Export(512, bytes(512))},
                           list_exports=False)
        with self.mount(server.uri()) as mount:
            self.assertEqual(mount.folders(), ["default"])
        with self.mount(server.uri("x")) as mount:
            self.assertEqual(mount.folders(), ["x"])

    def test_server_in_brackets(self):
        with self.mount("[", "nbdkit", "memory", "1M", "]") as mount:
            self.assert_tree(mount, export_files("default", depth=False))
        with self.mount("mem=[", "nbdkit", "memory", "1M", "]") as mount:
            self.assert_tree(mount, export_files("mem/default", depth=False))

    def test_several_sources(self):
        server = self.nbdkit("memory", "1M")
        with self.mount("one=" + server.uri, "two=" + self.disk("vm.qcow2")) as mount:
            self.assert_tree(mount, export_files("one/default", depth=False),
                             export_files("two", ["b0", "b1"]))

    def test_several_images(self):
        a, b = self.disk("a.qcow2"), self.disk("b.qcow2", [])
        with self.mount(a, b) as mount:
            self.assert_tree(mount, export_files("a", ["b0", "b1"]), export_files("b"))
        with self.mount("web=" + a) as mount:
            self.assert_tree(mount, export_files("web", ["b0", "b1"]))
        with self.mount("one=" + a, "two=" + a) as mount:
            self.assertEqual(mount.folders(), ["one", "two"])
            self.assertEqual(len({os.stat(mount / f"{f}/disk.raw").st_ino for f in ("one", "two")}), 2)
        self.assert_refused(a, self.disk("a.qcow2"), self.mkdir("mnt"), says=["folder a:", "NAME="])
        self.assert_refused("a=" + a, a, self.mkdir("mnt"), says=["folder a:", "NAME="])
        server = self.nbdkit("memory", "1M").uri
        self.assert_refused("a=" + a, "a=" + server, self.mkdir("mnt"),
                            says=["both be in the folder a:", "NAME="])

    def test_other_meta_contexts(self):
        contexts = {"base:allocation": [(0, 4096, 0)],
                    "x-site:heat/map": [(0, 512, 7), (512, 4096, 4000000000)]}
        server = NbdServer(self, {"": Export(4096, bytes(4096), contexts)})
        with self.mount(server.uri()) as mount:
            self.assert_tree(mount, export_files("default", depth=False),
                             ["default/maps/x-site:heat%2Fmap.map"])
            rows = mount.read("default/maps/x-site:heat%2Fmap.map").splitlines()
            self.assertEqual([row.split()[:3] for row in rows],
                             [["0", "512", "7"], ["512", "3584", "4000000000"]])

    def test_hostile_names(self):
        names = {"../../etc": "%2E.%2F..%2Fetc", "..": "%2E.", ".": "%2E", "a/b": "a%2Fb",
                 "%2F": "%252F", ".fleecefs": "%2Efleecefs", "new\nline": "new%0Aline",
                 "\x7f\x01": "%7F%01", "\u00e4 \u2603": "\u00e4 \u2603", "-rf *": "%2Drf *"}
        contexts = {DIRTY + name: [(0, 512, 1)] for name in names}
        server = NbdServer(self, {name: Export(512, bytes(512), contexts) for name in names})
        with self.mount(server.uri()) as mount:
            self.assertEqual(mount.folders(), sorted(names.values()))
            for name in names.values():
                found = {f.rpartition(".")[0] for f in os.listdir(mount / (name + "/dirty"))}
                self.assertEqual(found, set(names.values()))
                self.assertEqual(len(mount.read(f"{name}/disk.raw", "rb")), 512)

    def test_long_names(self):
        names = ["x" * 250 + end for end in ("1", "2")] + ["\u2603" * 150]
        server = NbdServer(self, {name: Export(512, bytes(512)) for name in names})
        with self.mount(server.uri()) as mount:
            self.assertEqual(len(mount.folders()), 3)
            for name in mount.folders():
                self.assertLessEqual(len(name.encode()), 200)
                self.assertEqual(len(mount.read(f"{name}/disk.raw", "rb")), 512)

    def test_names_that_collide(self):
        server = NbdServer(self, {"": Export(512, bytes(512)), "default": Export(512, bytes(512))})
        self.assert_refused(server.uri(), self.mkdir("mnt"), says=["default"])

    def test_info(self):
        image = self.disk()
        with self.mount(image) as mount:
            info = mount.json("vm/info.json")
            self.assertEqual(info["size"], disks.ODD_SIZE)
            self.assertIn("b0", mount.read("vm/info.json"))


if __name__ == "__main__":
    lib.main()
