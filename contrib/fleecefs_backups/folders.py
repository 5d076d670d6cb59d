# SPDX-License-Identifier: LGPL-2.1-or-later
"""Generations as folders or archives of files, written by cp or tar."""
import contextlib
import fcntl
import glob
import json
import os
import shutil

from . import archives, durable, fold, making, stored, sums, verify
from .commands import Failed, interruptible
from .keep import Generation
from .tool import Broken, Tool, no_folder


class Files(Tool):
    """A folder for each generation, filled by cp, and renamed when complete."""
    form, sparse, end, folds = "qcow2", "auto", "", True
    is_new = False  # save() has made the folder

    def __init__(self, destination, vm):
        if not os.path.isdir(destination):
            raise Failed(no_folder(destination))
        self.folder, self.place = os.path.join(destination, vm), destination
        if os.path.lexists(self.folder) and not os.path.isdir(self.folder):
            raise Failed(no_folder(self.folder))

    def generations(self):
        names = os.listdir(self.folder) if os.path.isdir(self.folder) else []
        names = [n.removesuffix(self.end) for n in names
                 if n.endswith(self.end) and not n.startswith(".")]
        return {n: stored.number_of(self.described(n)) for n in names}

    def describe(self, name):
        path = os.path.join(self.folder, name, stored.VM_FILE)
        return stored.read_json(path) if os.path.lexists(path) else {}

    def needs(self, disk, info):
        """See Tool; determined as fleecefs-restore would."""
        there = self.stored()
        found = there.find(info["base"], info.get("disk_id", ""), disk) if there else []
        if not found:
            raise Broken(self.missing(info["base"]))
        try:
            stored.check_one(found)
            chain = there.chain(found[0])
            for image in chain:
                making.check_end(image)
        except (stored.Refused, OSError) as why:
            raise Broken(f"its chain is broken: {why}") from None
        return list(dict.fromkeys(map(self.folder_of, chain)))

    def inventory(self):
        """See Tool; determined as fleecefs-restore would, including backups of older versions."""
        there, found = self.stored(), {}
        faults = there.faults() if there else {}
        for image in reversed(there.images if there else ()):
            name = self.folder_of(image)
            series, needs, foldable, whole, is_base = found.get(
                name, (self.described(name).get("series"), set(), True, True, False))
            if faults[image]:
                whole = False
            else:
                chain = there.chain(image)
                needs |= {self.folder_of(i) for i in chain} - {name}
                foldable &= not image.base or self.folds and fold.is_foldable(image, chain)
            is_base |= bool(image.point) and image.form != "split"
            found[name] = Generation(series, needs, foldable, whole, is_base)
        return found

    def stored(self):
        return stored.Stored(self.folder) if os.path.isdir(self.folder) else None

    @contextlib.contextmanager
    def locked(self, wait=False):
        if not os.path.isdir(self.folder):
            yield
            return
        fd = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with interruptible():
                fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(fd)
            raise Failed(f"another run is using {self.folder}; the next run does the retention of "
                         "this one") from None
        try:
            yield
        finally:
            os.close(fd)

    def finish(self):
        self.discard_parts()
        for note in glob.glob(os.path.join(glob.escape(self.folder), "*", fold.FOLDING)):
            fold.finish(os.path.dirname(note))
        for below in ("*", "*/*", "*/*/dirty"):
            for part in glob.glob(os.path.join(glob.escape(self.folder), below, ".*.part*")):
                os.unlink(part)

    def plan(self, going):
        """Returns what to fold, oldest first: (image, new base, its chain)."""
        there = self.stored()
        faults = there.faults()
        for image in there.images:
            if image.base and not faults[image] and self.folder_of(image) not in going:
                chain = there.chain(image)
                if self.folder_of(chain[-2]) in going:
                    stay = [i for i in chain[:-1] if self.folder_of(i) not in going]
                    yield image, stay[-1] if stay else None, chain

    def folding(self, going):
        return list(dict.fromkeys(self.folder_of(image) for image, _, _ in self.plan(going))) \
            if going else []

    def fold(self, going):
        while going and (step := next(self.plan(going), None)):
            fold.fold(*step)
        self.renew(going)

    def renew(self, going):
        """Updates vm.json of the remaining generations for the removal of GOING."""
        there, needs = self.stored(), {}
        faults = there.faults() if there else {}
        for image in there.images if there else ():
            if not faults[image]:
                chain = there.chain(image)
                needs.setdefault(self.folder_of(image), {})[os.path.basename(image.home)] = (
                    image.base, [self.folder_of(i) for i in chain[:-1]])
        for name, disks in needs.items():
            said = self.described(name)
            if name in going or not said:
                continue
            now = json.loads(json.dumps(said))
            for disk, (base, others) in disks.items():
                # A damaged vm.json is not mended here.
                recorded = now.get("disks")
                if isinstance(recorded, dict) and isinstance(recorded.get(disk), dict):
                    now["disks"][disk]["needs"] = others
                    if base:
                        now["disks"][disk]["base"] = base
                    elif now["disks"][disk].pop("base", None):
                        now["disks"][disk]["mode"] = "full"
            if now != said:
                durable.write_json(os.path.join(self.folder, name, stored.VM_FILE), now)

    def folder_of(self, image):
        """Returns the folder of its generation, which may have been renamed."""
        return os.path.relpath(image.path, self.folder).split("/")[0]

    def save(self, mount, files, name, number):
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.folder)
            self.is_new = True
        with self.locked(wait=True):
            self.discard_parts()
            part = self.part_of(name)
            self.write(mount, files, part)
            mount.run("sync", "--file-system", self.folder)
            os.rename(part, os.path.join(self.folder, name + self.end))
            mount.run("sync", "--file-system", self.folder)

    def part_of(self, name):
        return os.path.join(self.folder, f".{name}.part")

    def write(self, mount, files, part):
        for file in files:
            copy = os.path.join(part, file)
            os.makedirs(os.path.dirname(copy), exist_ok=True)
            mount.run("cp", f"--sparse={self.sparse}", "--", os.path.join(mount.path, file), copy)
        for name in mount.vm_files:
            shutil.copy(os.path.join(mount.folder, name), os.path.join(part, name))
        with interruptible():
            sums.record(part)

    def verify(self, mount, files, name, percent):
        verify.compare_folders(mount, files, os.path.join(self.folder, name), percent)

    def discard(self, *names):
        for name in names:
            part, path = self.part_of(name), os.path.join(self.folder, name + self.end)
            if os.path.lexists(part):
                self.remove(part)
            if os.path.lexists(path):
                os.rename(path, part)  # a partially removed one must not count as a generation
                self.remove(part)

    def undo(self, name):
        self.discard(name)
        if self.is_new:
            with contextlib.suppress(OSError):  # not empty
                os.rmdir(self.folder)

    def discard_parts(self):
        """Removes incomplete generations of this run, and of runs that were killed."""
        for part in glob.glob(os.path.join(glob.escape(self.folder), ".*.part")):
            self.remove(part)

    remove = staticmethod(shutil.rmtree)


class Raw(Files):
    form, sparse = "raw", "always"


class Tar(Files):
    """An archive for each generation, read by archives.py."""
    end, folds = ".tar", False
    remove = staticmethod(os.unlink)
    folding, fold = Tool.folding, Tool.fold

    def path_of(self, name):
        return os.path.join(self.folder, name + self.end)

    def describe(self, name):
        try:
            return archives.describe(self.path_of(name)) or {}
        except stored.Damaged as why:
            raise stored.Damaged(f"{name}{self.end}: {why}") from None

    def inventory(self):
        found = super(Files, self).inventory()
        damaged = {name for name in found if self.is_damaged(name)}
        return {name: it._replace(whole=not damaged & {name, *(it.needs or ())},
                                  is_base=any(point for point, _, _ in stored.disks_of(
                                      self.described(name)).values()))
                for name, it in found.items()}

    def is_damaged(self, name):
        try:
            self.describe(name)
        except (stored.Damaged, OSError):
            return True
        return bool(archives.damage_of(self.path_of(name)))

    def needs(self, disk, info):
        found = super(Files, self).needs(disk, info)
        for name in found:
            if why := archives.damage_of(self.path_of(name)) or archives.cut_off(self.path_of(name)):
                raise Broken(f"its chain is broken: {self.path_of(name)} is damaged: {why}")
        return found

    def write(self, mount, files, part):
        mount.run("tar", "-cf", part, "-C", mount.folder, *mount.vm_files, "-C", mount.path, "--",
                  *files)
        with interruptible():
            archives.add_sums(part)

    def discard(self, *names):
        super().discard(*names)
        for name in names:
            durable.remove(self.path_of(name) + archives.NOTE)

    def verify(self, mount, files, name, percent):
        path = self.path_of(name)
        with open(path, "rb") as f:
            os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            verify.compare_archive(mount, files, f, percent, path)
