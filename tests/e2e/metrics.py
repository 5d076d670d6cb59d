#!/usr/bin/env python3
"""The metrics, parsed by Prometheus and an OpenMetrics parser."""
import json
import os
import re
import subprocess
import time

import disks
import lib
from nbdserver import DIRTY, Export, NbdServer

# Debian's Python, which has Debian's packages: prints [name, type, unit, help, samples] of each family.
PARSE = """
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
print(json.dumps([[f.name, f.type, f.unit, f.documentation,
                   [[s.name, s.labels, s.value] for s in f.samples]]
                  for f in text_string_to_metric_families(sys.stdin.buffer.read().decode())]))
"""
HOSTILE = ['quote"} 1', "back\\slash\\n", "new\nline 2", "# EOF", "\x01\x1b[2J\x7f\r\t",
           "\u00e4\u2028\u2603", "{a=\"b\",}", " "]


def raw_name(raw):
    return raw.decode(errors="surrogateescape")


class Metrics(lib.TestCase):
    def parse(self, mount):
        """Returns families by name, as (type, unit, samples); samples by disk, or the only one."""
        text = mount.read(".fleecefs/metrics", "rb")
        self.assertTrue(text.endswith(b"\n# EOF\n"))
        said = lib.run("/usr/bin/python3", "-c", PARSE, input=text, text=False)
        families = {}
        for name, kind, unit, documentation, samples in json.loads(said):
            self.assertRegex(documentation, r"^[A-Z].*\.$", name)
            self.assertRegex(name, "^fleecefs_")
            self.assertEqual(unit, (re.findall("_(bytes|seconds)$", name) or [""])[0], name)
            by_disk = {labels.get("disk"): value for _, labels, value in samples}
            self.assertEqual(len(by_disk), len(samples), name)
            self.assertEqual({sample for sample, _, _ in samples} or {name},
                             {name + "_total" if kind == "counter" else name})
            families[name.removeprefix("fleecefs_")] = kind, by_disk
        return families

    def test_figures(self):
        image = disks.create(self.path("vm.qcow2"), 4 * lib.MIB, ["b"])
        disks.qemu_io(image, ["write -q 0 1M"])
        vm = os.path.basename(image).removesuffix(".qcow2")
        with self.mount(image) as mount:
            before = self.parse(mount)
            self.assertEqual(before["disk_data_bytes"], ("gauge", {}))
            mount.read(f"{vm}/dirty/b.raw", "rb")
            after = self.parse(mount)
            status = mount.json(".fleecefs/status.json")
        self.assertLess(abs(time.time() - after["start_time_seconds"][1][None]), 1000)
        self.assertEqual(after["build_info"], ("gauge", {None: 1}))
        self.assertEqual(after["disk_up"], ("gauge", {vm: 1}))
        self.assertEqual(after["disk_size_bytes"], ("gauge", {vm: 4 * lib.MIB}))
        for name in ("data", "dirty"):
            self.assertEqual(after[f"disk_{name}_bytes"], ("gauge", {vm: lib.MIB}))
            self.assertEqual(after[f"disk_{name}_covered_bytes"], ("gauge", {vm: lib.MIB}))
        self.assertGreaterEqual(after["disk_read_bytes"][1][vm], lib.MIB)
        self.assertEqual(after["disk_errors"], ("counter", {vm: 0}))
        # The same values as in status.json.
        (disk,) = status["exports"]
        for metric, member in (("read_bytes", "bytes_read"), ("requests", "requests"),
                               ("dirty_covered_bytes", "dirty_covered_bytes")):
            self.assertEqual(after["disk_" + metric][1][vm], disk[member])

        self.check_manual({*status, *disk}, after)

    def check_manual(self, members, families):
        """fleecefs-formats(5) has every member and metric."""
        with open(lib.TOP + "/src/fleecefs-formats.5") as f:
            words = set(f.read().split())
        wanted = {*members, "fleecefs_disk_"}
        for name, (kind, _) in families.items():
            name += "_total" * (kind == "counter")
            wanted.add(name.removeprefix("disk_") if name.startswith("disk_")
                       else "fleecefs_" + name)
        self.assertLessEqual(wanted, words)

    def hostile_server(self):
        exports = {name: Export(4096, bytes(4096), {DIRTY + name: [(0, 512, 1)]})
                   for name in HOSTILE}
        exports[raw_name(b"\xff\xfe")] = Export(512, bytes(512))
        return NbdServer(self, exports)

    def test_hostile_names(self):
        with self.mount(self.hostile_server().uri()) as mount:
            families = self.parse(mount)
        sizes = families["disk_size_bytes"][1]
        self.assertEqual(sizes, {**dict.fromkeys(HOSTILE, 4096), "\ufffd\ufffd": 512})

    def test_prometheus(self):
        """Prometheus imports the metrics as OpenMetrics, with added timestamps, and stores the values."""
        lib.require("promtool")
        with self.mount(self.hostile_server().uri()) as mount:
            text = mount.read(".fleecefs/metrics", "rb")
        # promtool's text parser, which node exporter also uses, accepts it without timestamps.
        checked = lib.attempt("promtool", "check", "metrics", input=text, text=False)
        self.assertNotEqual(checked.returncode, 1, checked.stderr)
        file, now = self.path("metrics"), int(time.time())
        with open(file, "wb") as f:
            f.write(re.sub(rb"^([^#].*)$", rb"\1 %d" % now, text, flags=re.M))
        blocks = self.mkdir("blocks")
        lib.run("promtool", "tsdb", "create-blocks-from", "openmetrics", file, blocks)
        os.mkdir(blocks + "/wal")
        # Its temporary files go into data/.
        os.mkdir(self.dir + "/data")
        stored = lib.run("promtool", "tsdb", "dump", blocks, cwd=self.dir,
                         stderr=subprocess.DEVNULL).splitlines()
        sizes = [line for line in stored if '"fleecefs_disk_size_bytes"' in line]
        self.assertEqual(len(sizes), len(HOSTILE) + 1, stored)


if __name__ == "__main__":
    lib.main()
