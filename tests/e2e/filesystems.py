"""File systems of guests, created and changed by the kernel and by other drivers, and a model of the
changes."""
import hashlib
import os
import stat

import lib

SIZE = 64 * lib.MIB
KINDS = {
    "ext2": ("mkfs.ext2", "-q", "-F"),
    "ext3": ("mkfs.ext3", "-q", "-F", "-b", "1024"),
    "ext4": ("mkfs.ext4", "-q", "-F"),
    "inline": ("mkfs.ext4", "-q", "-F", "-b", "4096", "-O", "inline_data,^has_journal"),
    "wide": ("mkfs.ext4", "-q", "-F", "-b", "4096", "-O", "64bit,metadata_csum,bigalloc,orphan_file"),
    "ntfs": ("mkfs.ntfs", "-q", "-F", "-f"),
    "exfat": ("mkfs.exfat",),
    "vfat": ("mkfs.vfat", "-F", "32"),
}
DRIVERS = {"ntfs": ("ntfs-3g",), "exfat": ("mount.exfat-fuse",)}
# The last one is not valid on FAT.
NAMES = ("f", "ein Name ", "日本", "-x", "a\tb")
# Drivers that require a block device.
ON_DEVICES = ("exfat",)


def differences(before, after, granule):
    """Returns the ranges in which two images differ, in whole granules, like a dirty bitmap."""
    with open(before, "rb") as a, open(after, "rb") as b:
        at = 0
        while one := a.read(granule):
            yield at, len(one), one != b.read(granule)
            at += len(one)


def write_map(path, ranges):
    merged = []
    for start, length, dirty in ranges:
        if merged and merged[-1][2] == dirty:
            merged[-1][1] += length
        else:
            merged.append([start, length, dirty])
    with open(path, "w") as f:
        for start, length, dirty in merged:
            f.write(f"{start:20}  {length:20}  {dirty:10}  {'dirty' if dirty else 'clean'}\n")


def look(root):
    """Returns all files below ROOT: {path: (identity of the contents, other metadata)}."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(folder, name)
            st = os.lstat(path)
            contents = b""
            if stat.S_ISREG(st.st_mode):
                with open(path, "rb") as f:
                    contents = f.read()
            elif stat.S_ISLNK(st.st_mode):
                contents = os.readlink(path).encode()
            found[os.path.relpath(path, root)] = (
                hashlib.sha256(contents).digest(),
                (st.st_mode, st.st_uid, st.st_ino, st.st_size, st.st_nlink, st.st_ctime_ns),
                stat.S_ISDIR(st.st_mode))
    return found


class FileSystem:
    """An image mounted for writing."""

    def __init__(self, test, kind, size=SIZE):
        self.test, self.kind = test, kind
        self.image, self.root = test.path(kind), test.mkdir("root-" + kind)
        self.drivers = []
        with open(self.image, "wb") as f:
            f.truncate(size)
        lib.run(*KINDS[kind], self.image)

    def mount(self):
        command, image = DRIVERS.get(self.kind, ("mount", "-o", "loop")), self.image
        if self.kind in ON_DEVICES:
            image = lib.run("losetup", "--find", "--show", image).strip()
            self.test.defer(lib.attempt, "losetup", "--detach", image)
        before = lib.children(os.getpid())
        done = lib.attempt(*command, image, self.root)
        self.drivers = [os.pidfd_open(pid) for pid in
                        set(lib.children(os.getpid())) - set(before)]
        if done.returncode != 0:
            self.test.skipTest(f"no {self.kind} here: {done.stderr}")
        self.test.defer(self.unmount)

    def unmount(self):
        if lib.is_mounted(self.root):
            # Another test's mount namespace may have a copy of the mount, and so keep it from writing.
            if lib.attempt("fsfreeze", "--freeze", self.root).returncode == 0:
                lib.run("fsfreeze", "--unfreeze", self.root)
            lib.run("umount", self.root)
        # A driver may write after umount has returned, and close the device only when it ends.
        while self.drivers:
            driver = self.drivers.pop()
            lib.wait_gone(driver, f"driver of {self.kind}")
            os.close(driver)

    def copy(self, name):
        """Creates the state of a guest that was not frozen: syncing files and folders, unlike the
        file system, leaves their changes in the journal."""
        for path in (self.root, *(os.path.join(self.root, p) for p in look(self.root))):
            if not os.path.islink(path):
                fd = os.open(path, os.O_RDONLY)
                os.fsync(fd)
                os.close(fd)
        path = self.test.path(name)
        lib.run("cp", "--sparse=always", self.image, path)
        return path


class Model:
    """Random actions of users, and their results."""

    def __init__(self, rng, root, has_links=True):
        self.rng, self.root, self.has_links, self.n = rng, root, has_links, 0

    def files(self):
        return sorted(p for p in look(self.root) if stat.S_ISREG(os.lstat(self.at(p)).st_mode))

    def folders(self):
        return ["."] + sorted(p for p, (*_, folder) in look(self.root).items() if folder)

    def at(self, path):
        return os.path.join(self.root, path)

    def new(self):
        self.n += 1
        name = self.rng.choice(NAMES if self.has_links else NAMES[:-1]) + str(self.n)
        return self.at(os.path.join(self.rng.choice(self.folders()), name))

    def write(self, path, mode, size, at=None):
        with open(path, mode) as f:
            if at is not None:
                f.seek(at)
            f.write(self.rng.randbytes(size))

    def create(self):
        self.write(self.new(), "wb", self.rng.choice((0, 10, 50, 4000, 70000, 900000)))

    def append(self):
        self.write(self.at(self.rng.choice(self.files())), "ab", self.rng.choice((5, 9000)))

    def overwrite(self):
        path = self.at(self.rng.choice(self.files()))
        size = os.path.getsize(path)
        if size > 0:
            self.write(path, "r+b", min(size, 3000), self.rng.randrange(size))

    def sparse(self):
        self.write(self.new(), "wb", 100, self.rng.choice((30000, 5000000)))

    def remove(self):
        os.unlink(self.at(self.rng.choice(self.files())))

    def rename(self):
        os.rename(self.at(self.rng.choice(self.files())), self.new())

    def truncate(self):
        path = self.at(self.rng.choice(self.files()))
        os.truncate(path, self.rng.randrange(os.path.getsize(path) + 1))

    def chmod(self):
        if self.has_links:
            os.chmod(self.at(self.rng.choice(self.files())), self.rng.choice((0o600, 0o755, 0o444)))

    def link(self):
        if self.has_links:
            os.link(self.at(self.rng.choice(self.files())), self.new())

    def symlink(self):
        if self.has_links:
            os.symlink("x" * self.rng.choice((5, 200)), self.new())

    def mkdir(self):
        os.mkdir(self.new())

    def step(self):
        few = len(self.files()) < 5
        self.rng.choice((self.create, self.sparse, self.mkdir) if few else
                        (self.create, self.append, self.overwrite, self.sparse, self.remove,
                         self.rename, self.truncate, self.chmod, self.link, self.symlink,
                         self.mkdir))()
