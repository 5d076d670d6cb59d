#!/usr/bin/env python3
"""backup:FOLDER mounts stored backups without restoring them."""
import datetime
import errno
import json
import os
import re
import shutil
import subprocess
import time

import lib
import scripts
from scripts_restore import DB, SIZE, WEB, Stored, point


class Backup(Stored):
    def source(self, query="", folder=None):
        return f"backup:{folder or self.to}{query}"

    def check(self, disks, query="", folder=None):
        """Checks that the mount shows DISKS, {path: contents}."""
        with self.mount(self.source(query, folder)) as mount:
            found = [f.removesuffix("/disk.raw") for f in mount.files() if f.endswith("/disk.raw")]
            self.assertEqual(sorted(found), sorted(disks))
            for name, data in disks.items():
                self.assertTrue(mount.read(name + "/disk.raw", "rb") == data, name)
                holes = os.stat(mount / (name + "/disk.raw")).st_blocks * 512
                self.assertLess(holes, len(data))

    def refuse(self, *says, query="", folder=None, status=1):
        return self.assert_refused(self.source(query, folder), self.mkdir("mnt"), says=says,
                                   status=status)

    def chain(self, form, name="web", vm=WEB):
        """Stores three generations of two disks, an hour apart; returns their contents."""
        now = datetime.datetime.now(datetime.timezone.utc)
        kept, models = {"vda": {}, "vdb": {}}, []
        for n in range(3):
            taken = (now - datetime.timedelta(hours=5 - n)).strftime("%Y-%m-%dT%H:%M:%S.5Z")
            model = {}
            for disk, first in (("vda", 1), ("vdb", 101)):
                kept[disk] |= {f"c{n}": first + n, "c9": first + n}
                base = point(n - 1) if n else None
                path = self.store(f"{name}/{point(n)}/{disk}", first + n, n, form=form, base=base,
                                  number=n, restore_point=point(n), disk_id=f"{name} {disk}", vm=vm,
                                  point_in_time=taken)
                self.write(path, form, base, first + n, 9)
                model[disk] = self.disk(**kept[disk])
            models.append(model)
        return models

    def write(self, path, form, base, byte, at):
        """Adds a cluster to the image at PATH and to its map."""
        lib.run("qemu-io", "-f", form, "-c", f"write -P {byte} {at * 65536} 64k", path)
        if form == "raw" and base:
            n = byte % 100 - 1
            with open(path[:-3] + "ddrescue", "w") as f:
                f.write("0x0 + 1\n")
                for start, end, status in ((0, n, "?"), (n, n + 1, "+"), (n + 1, at, "?"),
                                           (at, at + 1, "+"), (at + 1, 16, "?")):
                    if start < end:
                        f.write(f"{start * 65536:#x} {(end - start) * 65536:#x} {status}\n")

    def test_chains(self):
        for form in ("qcow2", "raw"):
            self.to = self.mkdir("backups")
            models = self.chain(form)
            self.check(models[2])
            for n in (0, 1):
                self.check(models[n], f"?at={point(n)}")
            self.check(models[1], "?vm=web&at=4 hours ago")
            self.check(models[0], "?at=270%20minutes%20ago&vm=" + WEB["uuid"].upper())
            self.check(models[2], "?at=now", self.to + "/web")
            self.refuse("no backup is that old", query="?at=2020-01-01")
            self.check({f"web/{point(n)}/{disk}": data for n in range(3)
                        for disk, data in models[n].items()}, "?all")

    def test_pieces(self):
        """As rsync, restic and borg store them."""
        one = self.disk(c3=7, c15=9) + bytes(2 * SIZE) + self.disk(c0=1)
        two = self.disk(c0=1) * 7 + self.disk(c0=2)[:SIZE - 1000]
        self.pieces("web/a/vda", one, step=SIZE, vm=WEB, point_in_time="2026-11-20T06:00:00Z")
        self.pieces("web/b/vda", two, step=SIZE, vm=WEB, point_in_time="2026-11-21T06:00:00Z")
        self.check({"vda": two})
        self.check({"vda": one}, "?at=2026-11-20")
        self.check({"web/a/vda": one, "web/b/vda": two}, "?all")
        # Together with chains.
        models = self.chain("qcow2", "db", DB)
        self.check({"web/a/vda": one, "web/b/vda": two} |
                   {f"db/{point(n)}/{disk}": data for n in range(3)
                    for disk, data in models[n].items()}, "?all")
        os.unlink(f"{self.to}/web/b/vda/split/000003")
        self.refuse("000003 is missing", query="?vm=web")
        with self.mount(self.source("?all&vm=web")) as mount:
            self.assert_errno(errno.EIO, os.stat, mount / "web/b/vda/disk.raw")
            self.assertTrue(mount.read("web/a/vda/disk.raw", "rb") == one)
        os.unlink(f"{self.to}/web/b/vda/split/000007")
        os.unlink(f"{self.to}/web/b/vda/split/000006")
        os.rename(f"{self.to}/web/b/vda/split/000005", f"{self.to}/web/b/vda/split/000003")
        self.refuse("the pieces have 5242880 bytes", query="?vm=web")
        self.store("web/c/vda", 1, 0, base="b", restore_point="c", vm=WEB)
        self.pieces("web/d/vda", self.disk(c1=1), step=SIZE, vm=WEB, restore_point="b")
        self.refuse("is an increment relative to pieces", "fleecefs-restore", query="?vm=web&at=c")

    def test_read_only(self):
        """The stored files are not changed."""
        self.chain("qcow2")
        before = lib.run("find", self.to, "-type", "f", "-printf", "%p %T@ %C@ %s\n")
        self.check({"vda": self.disk(c0=1, c1=2, c2=3, c9=3), "vdb": self.disk(c0=101, c1=102, c2=103, c9=103)})
        self.assertEqual(before, lib.run("find", self.to, "-type", "f", "-printf", "%p %T@ %C@ %s\n"))

    def test_facts(self):
        self.chain("raw")
        with self.mount("copy=" + self.source(f"?at={point(1)}")) as mount:
            info = mount.json("copy/vda/info.json")
            self.assertEqual(info["size"], SIZE)
            self.assertIn(point(1), info["description"])
            self.assertEqual(info["source"], "backup:" + self.to)
            with open(f"{self.to}/web/{point(1)}/vda/info.json") as f:
                taken = json.load(f)["point_in_time"]
            self.assertEqual(info["point_in_time"][:19], taken[:19])
            seconds = datetime.datetime.strptime(taken[:19] + "+0000", "%Y-%m-%dT%H:%M:%S%z").timestamp()
            self.assertEqual(os.stat(mount / "copy/vda/disk.raw").st_mtime, seconds + .5)
            # A stored backup cannot be committed.
            self.assertNotIn("restore_point", info)
            self.assertEqual(self.fleecefs("--abort", mount.point).returncode, 0)

    def opened(self, mount, name):
        """Returns how many files called NAME the server has open. The daemon, which watches them, must have
        as many."""
        found = {True: 0, False: 0}
        for pid in mount.processes:
            for fd in os.listdir(f"/proc/{pid}/fd"):
                try:
                    found[int(pid) == mount.pid] += \
                        os.path.basename(os.readlink(f"/proc/{pid}/fd/{fd}")) == name
                except OSError:
                    pass
        self.assertEqual(found[True], found[False])
        return found[False]

    def test_images_are_opened_on_access(self):
        models = self.chain("qcow2")
        others = self.chain("raw", "db", DB)
        with self.mount(self.source("?all")) as mount:
            self.assertEqual(mount.folders(), ["db", "web"])
            self.assertEqual(sorted(os.listdir(mount / "web")), [point(n) for n in range(3)])
            self.assertEqual(sorted(os.listdir(mount / f"web/{point(2)}")), ["vda", "vdb"])
            self.assertEqual((self.opened(mount, "disk.qcow2"), self.opened(mount, "last.qcow2")), (0, 0))
            self.assertTrue(mount.read(f"web/{point(1)}/vdb/disk.raw", "rb") == models[1]["vdb"])
            self.assertEqual((self.opened(mount, "disk.qcow2"), self.opened(mount, "last.qcow2")), (1, 1))
            # Files shared by generations are opened once.
            self.assertTrue(mount.read(f"web/{point(2)}/vdb/disk.raw", "rb") == models[2]["vdb"])
            self.assertEqual((self.opened(mount, "disk.qcow2"), self.opened(mount, "last.qcow2")), (1, 2))
            self.assertTrue(mount.read(f"db/{point(2)}/vda/disk.raw", "rb") == others[2]["vda"])
            inodes = {os.stat(mount / f"{vm}/{point(n)}/{disk}/disk.raw").st_ino
                      for vm in ("web", "db") for n in range(3) for disk in ("vda", "vdb")}
            self.assertEqual(len(inodes), 12)
        with self.mount(self.source("?all&vm=db")) as mount:
            self.assertEqual(mount.folders(), ["db"])

    def test_limit_of_open_images(self):
        """After reading all generations, only the latest ones stay open; the others open again on access."""
        count, most, disks = 50, 32, {}
        for n in range(count):
            home = f"{self.to}/web/{n:03}/vda"
            if n < 2:
                self.store(f"web/{n:03}/vda", n + 1, 0, restore_point=f"{n:03}", vm=WEB)
                continue
            shutil.copytree(f"{self.to}/web/{n % 2:03}/vda", home)
            info = home + "/info.json"
            with open(info) as f:
                said = json.load(f)
            with open(info, "w") as f:
                json.dump({**said, "restore_point": f"{n:03}"}, f)
        for n in range(count):
            disks[f"web/{n:03}/vda"] = self.disk(c0=n % 2 + 1)
        # The last one is an increment, whose base stays open with it.
        last = f"web/{count:03}/vda"
        self.store(last, 7, 1, base="000", restore_point=f"{count:03}", vm=WEB)
        disks[last] = self.disk(c0=1, c1=7)
        with self.mount(self.source("?all")) as mount:
            # Loads the maps of each, through a connection that is closed again.
            for name in reversed(disks):
                self.assertGreater(os.stat(f"{mount / name}/disk.raw").st_blocks, 0)
                if name == last:
                    self.assertEqual(self.opened(mount, "last.qcow2"), 1)
            self.assertEqual(self.opened(mount, "disk.qcow2"), most)
            self.assertEqual(self.opened(mount, "last.qcow2"), 0)
            for name, data in disks.items():
                self.assertTrue(mount.read(name + "/disk.raw", "rb") == data, name)

    def test_as_an_ordinary_user(self):
        """Read permission on the stored files suffices to mount them."""
        self.need_other_users()
        models = {"web": self.chain("qcow2"), "db": self.chain("raw", "db", DB)}
        self.pieces("ftp/0/vda", self.disk(c3=7), step=SIZE, vm={**WEB, "uuid": "7" * 8 + WEB["uuid"][8:]})
        os.chmod(self.dir, 0o755)
        home, program = self.mkdir("home"), self.path("fleecefs")
        shutil.copy(lib.FLEECEFS[0], program)
        mnt = home + "/mnt"
        os.mkdir(mnt)
        for path in (home, mnt):
            shutil.chown(path, "nobody")
        self.defer(lib.attempt, "umount", "-l", mnt)
        user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "env",
                f"TMPDIR={home}", f"XDG_RUNTIME_DIR={home}"]
        lib.run(*user, program, self.source("?all"), mnt)
        for vm, model in models.items():
            for n in range(3):
                path = f"{mnt}/{vm}/{point(n)}/vda/disk.raw"
                with subprocess.Popen([*user, "cat", path], stdout=subprocess.PIPE) as cat:
                    self.assertTrue(cat.stdout.read() == model[n]["vda"], path)
        with subprocess.Popen([*user, "cat", mnt + "/ftp/0/vda/disk.raw"], stdout=subprocess.PIPE) as cat:
            self.assertTrue(cat.stdout.read() == self.disk(c3=7))
        lib.run(*user, program, "--abort", mnt)
        self.assertEqual(os.listdir(home), ["mnt"])
        # Without it, the mount is refused with that reason.
        os.chmod(f"{self.to}/web/{point(0)}/vda/disk.qcow2", 0o600)
        done = lib.attempt(*user, program, self.source(f"?vm={WEB['uuid']}&at={point(0)}"), mnt)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("Permission denied", done.stderr)
        self.assertFalse(lib.is_mounted(mnt))

    def test_several_vms(self):
        self.chain("qcow2")
        models = self.chain("qcow2", "db", DB)
        self.refuse("several VMs: ", "web (11111111-", "db (9999", "?vm=NAME", "?all")
        self.refuse("no VM mail; stored VMs: ", query="?vm=mail")
        self.check(models[2], "?vm=db")

    def test_broken_chains(self):
        self.chain("qcow2")
        shutil.rmtree(f"{self.to}/web/{point(1)}")
        self.refuse(f"needs restore point {point(1)}, which is missing", "?at=")
        self.check({"vda": self.disk(c0=1, c9=1), "vdb": self.disk(c0=101, c9=101)}, f"?at={point(0)}")
        with self.mount(self.source("?all")) as mount:
            self.assertIn("left out: ", mount.output())
            self.assertEqual(os.listdir(mount / "web"), [point(0)])

    def test_damaged_files(self):
        """A truncated or exchanged file is never shown as zeros or as a file of the host."""
        for form, file in (("qcow2", "disk.qcow2"), ("raw", "disk.raw"), ("qcow2", "dirty/last.qcow2"),
                           ("raw", "dirty/last.raw"), ("raw", "dirty/last.ddrescue")):
            self.to = self.mkdir("backups")
            self.chain(form)
            path = f"{self.to}/web/{point(1 if '/' in file else 0)}/vda/{file}"
            os.truncate(path, os.stat(path).st_size - 5)
            self.refuse(file, "damaged", query=f"?at={point(2)}")
            with self.mount(self.source("?all")) as mount:
                self.assert_errno(errno.EIO, os.stat, mount / f"web/{point(2)}/vda/disk.raw")
                self.assertEqual(os.stat(mount / f"web/{point(2)}/vdb/disk.raw").st_size, SIZE)
            secret = self.path("secret")
            with open(secret, "wb") as f:
                f.write(b"TOPSECRET" * 7282)
                f.truncate(SIZE)
            os.unlink(path)
            os.symlink(secret, path)
            self.refuse(query=f"?at={point(2)}")

    def test_truncated_while_mounted(self):
        """Truncated parts of any file in the chain do not read as zeros; other disks remain readable."""
        for form, file in (("qcow2", "disk.qcow2"), ("raw", "disk.raw"), ("qcow2", "dirty/last.qcow2"),
                           ("raw", "dirty/last.raw")):
            self.to = self.mkdir("backups")
            models = self.chain(form)
            path = f"{self.to}/web/{point(1 if '/' in file else 0)}/vda/{file}"
            mount = self.mount(self.source(), options=["-o", "readahead=0"])
            fd = os.open(mount / "vda/disk.raw", os.O_RDONLY | os.O_DIRECT)
            self.assertEqual(os.pread(fd, 65536, 0), models[2]["vda"][:65536])
            os.truncate(path, os.stat(path).st_size - 4096)
            for offset in (9 * 65536, 65536):
                self.assert_errno(errno.EIO, os.pread, fd, 65536, offset)
            os.close(fd)
            self.assertTrue(mount.read("vdb/disk.raw", "rb") == models[2]["vdb"])
            said = [e.get("failure") or "" for e in mount.json(".fleecefs/status.json")["exports"]]
            self.assertEqual([f"{path} was truncated while it was mounted" in s for s in said],
                             [True, False])
            mount.unmount()

    def test_truncated_and_grown_again(self):
        """Between two reads: its zeros are not the disk's. Reading and hard links are harmless."""
        models = self.chain("raw")
        folder = f"{self.to}/web/{point(0)}"
        mount = self.mount(self.source(), options=["-o", "readahead=0"])
        fd = os.open(mount / "vda/disk.raw", os.O_RDONLY | os.O_DIRECT)
        self.assertEqual(os.pread(fd, 65536, 0), models[2]["vda"][:65536])
        path, beside = f"{folder}/vda/disk.raw", f"{folder}/vdb/disk.raw"
        for file in (path, beside):  # as rsync --link-dest and a scanner do
            link = self.path("link")
            os.link(file, link)
            os.unlink(link)
            os.utime(file, ns=(1, os.stat(file).st_mtime_ns))
        self.assertEqual(os.pread(fd, 65536, 65536), models[2]["vda"][65536:2 * 65536])
        os.truncate(path, 0)
        os.truncate(path, SIZE)
        self.assert_errno(errno.EIO, os.pread, fd, 65536, 9 * 65536)
        os.close(fd)
        self.assertTrue(mount.read("vdb/disk.raw", "rb") == models[2]["vdb"])
        said = [e.get("failure") or "" for e in mount.json(".fleecefs/status.json")["exports"]]
        self.assertEqual([f"{path} was changed while it was mounted" in s for s in said],
                         [True, False])

    def test_files_that_name_others(self):
        """An increment may name any file of the host as its backing file, which is ignored."""
        self.chain("qcow2")
        secret = self.path("secret")
        with open(secret, "wb") as f:
            f.write(b"TOPSECRET" * (SIZE // 9))
            f.truncate(SIZE)
        path = f"{self.to}/web/{point(1)}/vda/dirty/last.qcow2"
        lib.run("qemu-img", "rebase", "-u", "-F", "raw", "-b", secret, path)
        self.check({"vda": self.disk(c0=1, c1=2, c2=3, c9=3),
                    "vdb": self.disk(c0=101, c1=102, c2=103, c9=103)})
        full = f"{self.to}/web/{point(0)}/vda/disk.qcow2"
        lib.run("qemu-img", "rebase", "-u", "-F", "raw", "-b", secret, full)
        self.refuse("has a backing file, unlike full backups")

    def test_usage(self):
        for query, says in (("?foo", "invalid parameter 'foo'"), ("?all&at=today", "either all"),
                            ("?vm=", "invalid parameter 'vm='"),
                            ("?vm=a&vm=b", "invalid parameter 'vm=b'")):
            self.refuse(says, query=query, status=2)
        self.refuse("no folder", folder="?vm=x", status=2)
        self.refuse("contains no backup")
        odd = self.mkdir("a?vm=b")
        self.to = odd
        self.store("a/vda", 1, 0, restore_point="a")
        self.check({"vda": self.disk(c0=1)})

    def test_odd_size(self):
        """QEMU rounds up to sectors: bytes past the end read as zeros."""
        home = self.to + "/a/vda"
        os.makedirs(home)
        data = self.rng.randbytes(100_000)
        with open(home + "/disk.raw", "wb") as f:
            f.write(data)
        with open(home + "/info.json", "w") as f:
            json.dump({"size": len(data), "contexts": []}, f)
        with self.mount(self.source()) as mount:
            self.assertTrue(mount.read("vda/disk.raw", "rb") == data.ljust(100_352, b"\0"))

    def test_a_long_chain(self):
        self.store("0/vda", 1, 0, restore_point="0")
        model = self.store("model/vda", 2, 1, base="x", restore_point="y")
        expected, most = {"c0": 1}, 200
        for number in range(1, most + 1):
            home = f"{self.to}/{number}/vda"
            os.makedirs(home + "/dirty")
            shutil.copy(model, home + "/dirty/last.qcow2")
            with open(home + "/info.json", "w") as f:
                json.dump({"size": SIZE, "contexts": [{"bitmap": "last", "base": "x"}],
                           "base": str(number - 1), "restore_point": str(number)}, f)
            expected.update(c1=2)
        shutil.rmtree(self.to + "/model")
        self.refuse(f"depends on {most} others", "fleecefs-restore", query=f"?at={most}")
        self.check({"vda": self.disk(**expected)}, f"?at={most - 1}")


class Generations(scripts.Base):
    def test_what_fleecefs_backup_stores(self):
        """Generations of a running VM match its disks, whichever tool stored them."""
        for tool in ("qcow2", "raw", "rsync"):
            lib.require(*["rsync"] * (tool == "rsync"))
            self.to = self.mkdir("to")
            vm, expected = self.vm(), []
            for _ in range(3):
                expected.append(self.models(vm))
                self.backup(vm, tool=tool)
                vm.scribble(self.rng)
            names = sorted(self.generations())
            with self.mount(f"backup:{self.to}?all") as mount:
                for name, models in zip(names, expected):
                    for disk, model in models.items():
                        self.assertTrue(mount.read(f"web/{name}/{disk}/disk.raw", "rb") == model,
                                        (tool, name, disk))
            with self.mount(f"backup:{self.to}?vm=web&at={names[1]}") as mount:
                for disk, model in expected[1].items():
                    self.assertTrue(mount.read(disk + "/disk.raw", "rb") == model)
                    # The tree is complete, as of any other disk.
                    lib.run("qemu-img", "compare", mount / (disk + "/disk.qcow2"),
                            mount / (disk + "/disk.raw"))
            vm.kill()

    def test_what_keep_has_merged(self):
        """Generations that --keep has rewritten have the same contents."""
        for tool in ("qcow2", "raw"):
            self.to = self.mkdir("to")
            vm, expected = self.vm("vda"), {}
            for _ in range(4):
                name, = self.backup(vm, "--keep", "last=2", tool=tool)
                expected[name] = bytes(vm.disks["vda"].model)
                vm.scribble(self.rng)
            self.assertEqual(sorted(self.generations()), sorted(expected)[2:])
            with self.mount(f"backup:{self.to}?all") as mount:
                for name in self.generations():
                    self.assertTrue(mount.read(f"web/{name}/vda/disk.raw", "rb") == expected[name],
                                    (tool, name))
            vm.kill()

    def test_a_file_out_of_restic(self):
        """Restores a file of an earlier day as the manual describes; little of the disk is read."""
        lib.require("restic", "sfdisk", "mke2fs", "debugfs")
        to, image = self.repository("restic"), self.path("vda.raw")
        for day in ("tuesday", "wednesday"):
            root = self.mkdir("root")
            os.mkdir(root + "/etc")
            with open(root + "/etc/fstab", "w") as f:
                f.write(day + "\n")
            with open(root + "/noise", "wb") as f:
                f.write(self.rng.randbytes(16 * lib.MIB))
            with open(image, "wb") as f:
                f.truncate(32 * lib.MIB)
            lib.run("sfdisk", "-q", image, input="label: gpt\nstart=1M\n")
            lib.run("mke2fs", "-q", "-t", "ext4", "-E", f"offset={lib.MIB}", "-d", root, image, "30M")
            lib.run(scripts.BACKUP, "restic", to, "web=" + image, env=self.env)
        with open(f"{lib.TOP}/contrib/fleecefs-backup.1") as f:
            said = re.search(r'\.\\" recipe: a file\n\.Bd.*\n([^.]*(?:.*\n)*?)\.Ed', f.read())[1]
        mounted, mnt = self.mkdir("restic"), self.mkdir("mnt")
        said = said.replace("\\e\n", "\\\n").replace("\\-", "-").replace(
            "/srv/restic", to).replace("/mnt/restic", mounted).replace("/mnt/web", mnt)
        first, rest = said.split(" &\n", 1)
        process = subprocess.Popen(first.split(), env=self.env, stdout=subprocess.DEVNULL,
                                   preexec_fn=lib.die_with_us)
        self.defer(lib.attempt, "umount", "-l", mounted)
        self.defer(process.wait)
        self.defer(process.kill)
        deadline = time.monotonic() + lib.PATIENCE
        while not lib.is_mounted(mounted):
            self.assertIsNone(process.poll())
            self.assertLess(time.monotonic(), deadline)
        times = sorted(n for n in os.listdir(mounted + "/hosts/web") if n != "latest")
        self.assertEqual(len(times), 2)
        disk, = (d for d in os.listdir(f"{mounted}/hosts/web/{times[0]}") if d.endswith("vda"))
        self.defer(lib.attempt, "umount", "-l", mnt)
        lib.run("bash", "-euc", rest.replace("2026-11-24T06:30:00Z", times[0]).replace("vda", disk),
                cwd=self.dir, env=self.env)
        with open(self.dir + "/fstab") as f:
            self.assertEqual(f.read(), "tuesday\n")
        with open(mnt + "/.fleecefs/status.json") as f:
            read = json.load(f)["exports"][0]["bytes_read"]
        self.assertLess(read, 8 * lib.MIB)
        lib.run(*lib.FLEECEFS, "--abort", mnt)
        lib.run("fusermount3", "-u", mounted)


if __name__ == "__main__":
    lib.main()
