# SPDX-License-Identifier: LGPL-2.1-or-later
"""Generations as folders of pieces, written by rsync, local or on another host."""
import os
import shlex
import tempfile

from . import stored, verify
from .commands import Failed, ask
from .keep import Generation
from .tool import Tool, newest_first, no_folder

# Prints a line for each complete generation in the folder $1: its name, a tab, and vm.json.
LIST = r"""cd -- "$1" 2>/dev/null || exit 0
for f in */vm.json; do
    case $f in *.partial/vm.json) continue;; esac
    [ -f "$f" ] && printf '%s\t' "${f%/vm.json}" && head -c 1000000 -- "$f" && echo
done; :"""

# Prints the generations in the folder $1 that have a damaged disk.
DAMAGED = r"""cd -- "$1" 2>/dev/null || exit 0
for f in */*/DAMAGED; do [ -f "$f" ] && printf '%s\n' "${f%%/*}"; done; :"""

# Writes SHA256SUMS of the folder $1. For pieces linked to generation $2, copies the lines.
SUMS = r"""set -e; cd -- "$1"; old=; [ -z "$2" ] || [ ! -f "$2/SHA256SUMS" ] || old=$2/SHA256SUMS
find . -type f -links +1 | LC_ALL=C sort | awk '
    NR == FNR { if (substr($0, 1, 1) != "\\") known[substr($0, 67)] = $0; next }
    { name = substr($0, 3) }
    name in known { print known[name]; next }
    { print name > "/dev/stderr" }' "${old:-/dev/null}" - >.SHA256SUMS.part 2>.new
find . -type f -links 1 ! -name '.*' ! -path ./vm.json -printf '%P\n' >>.new
# The list is hidden until it is complete.
tr '\n' '\0' <.new | xargs -0r sha256sum -- >>.SHA256SUMS.part
LC_ALL=C sort -k 2 -o .SHA256SUMS.part .SHA256SUMS.part
rm .new; mv .SHA256SUMS.part SHA256SUMS"""

# Makes the folder $1; prints a line if it did not exist.
MAKE = r"""[ -d "$1" ] || { mkdir -p -- "$1" && echo made; }"""

# Removes the generation $1, first renaming it to $2, which marks it as incomplete.
DISCARD = r"""set -e
rm -rf -- "$2"; [ ! -d "$1" ] || mv -T -- "$1" "$2"
rm -rf -- "$2"; :"""


def may_link(said, other):
    """Whether pieces with the same time have the same content in the generations with vm.json SAID and
    OTHER. Times of an image file are unique only for that file, unless it continues a chain."""
    return "image" not in said or said["image"] == other.get("image") or \
        all(d.get("base") for d in said["disks"].values())


class Rsync(Tool):
    """A folder for each generation, local or at HOST:FOLDER, with the disks in pieces; unchanged pieces
    are hard links to the previous generation."""
    form = "split"
    is_new = False  # save() has made the folder

    def __init__(self, destination, vm):
        self.place = destination
        host, colon, folder = destination.partition(":")
        self.host = host if colon and "/" not in host else ""
        self.folder = os.path.join(folder if self.host else destination, vm)
        if not self.host and not os.path.isdir(destination):
            raise Failed(no_folder(destination))
        if not self.host and os.path.lexists(self.folder) and not os.path.isdir(self.folder):
            raise Failed(no_folder(self.folder))

    def there(self, *argv, stoppable=True):
        """Runs a command on the destination's host; returns its output."""
        if self.host:
            # The remote shell splits the words again.
            argv = *shlex.split(os.environ.get("RSYNC_RSH", "ssh")), self.host, shlex.join(argv)
        return ask(*argv, quiet=True, stoppable=stoppable)

    def listed(self):
        """Returns vm.json of each generation, as text."""
        lines = self.there("sh", "-c", LIST, "sh", self.folder).splitlines()
        return {name: text for name, tab, text in (line.partition("\t") for line in lines) if tab}

    def generations(self):
        return {name: stored.number_of(self.described(name, text))
                for name, text in self.listed().items()}

    def described(self, name, text=None):
        try:
            return stored.parse_json((text or self.listed().get(name, "{}")).encode())
        except stored.Damaged:
            return {}

    def inventory(self):
        """See Tool; only generations that other tools stored in the same folder need others."""
        said = {name: self.described(name, text) for name, text in self.listed().items()}
        known = {name: stored.number_of(text) for name, text in said.items()}
        damaged = self.damaged()
        return {name: Generation(said[name].get("series"), self.needs_of(name, said[name], known),
                                 whole=name not in damaged)
                for name in newest_first(known)}

    def save(self, mount, files, name, number):
        damaged, listed = self.damaged(), self.listed()
        known = {n: self.described(n, text) for n, text in listed.items()}
        ours = stored.read_json(os.path.join(mount.folder, stored.VM_FILE))
        # Never link to a generation that fleecefs-restore --check has found damaged.
        before = [n for n in newest_first({n: stored.number_of(said) for n, said in known.items()})
                  if n not in damaged and may_link(ours, known[n])][:1]
        self.is_new = bool(self.there("sh", "-c", MAKE, "sh", self.folder))
        self.discard_parts()
        part = f"{self.folder}/{name}{stored.PARTIAL}"
        remote = f"{self.host}:{part}/" if self.host else f"{part}/"
        # -s: protects the names from the remote shell.
        rsync = ("rsync", "-s", "--relative", "--recursive", "--times", "--sparse",
                 "--chmod=D755,F444", "--no-implied-dirs")
        # rsync links files with the same size and time; only for pieces does that imply the same content.
        mount.run(*rsync, *(f"--link-dest=../{n}" for n in before), "--",
                  *(f for f in files if f.endswith("/split")), remote, cwd=mount.path)
        mount.run(*rsync, "--", *(f for f in files if not f.endswith("/split")),
                  *(f"{mount.folder}/./{n}" for n in mount.vm_files), remote, cwd=mount.path)
        self.there("sh", "-c", SUMS, "sh", part, f"{self.folder}/{before[0]}" if before else "")
        self.there("sync", "--file-system", self.folder)
        self.there("mv", "-T", "--", part, f"{self.folder}/{name}")
        self.there("sync", "--file-system", self.folder)

    def damaged(self):
        return set(self.there("sh", "-c", DAMAGED, "sh", self.folder).splitlines())

    def verify(self, mount, files, name, percent):
        """See Tool; compares checksums that rsync computes on both sides."""
        chosen = [n for n in verify.below(mount.path, files) if verify.chosen(percent)]
        remote = f"{self.folder}/{name}/"
        with tempfile.NamedTemporaryFile("w") as f:
            f.write("".join(n + "\0" for n in chosen))
            f.flush()
            said = ask("rsync", "-s", "--dry-run", "--checksum", "--itemize-changes", "--from0",
                       f"--files-from={f.name}", f"{mount.path}/",
                       f"{self.host}:{remote}" if self.host else remote)
        if differing := [line for line in said.splitlines() if line.startswith("<f")
                         or line.startswith(">f")]:
            raise Failed(f"{differing[0][12:]} of {name} differs from the snapshot")

    def discard(self, *names):
        for name in names:
            self.there("sh", "-c", DISCARD, "sh", f"{self.folder}/{name}",
                       f"{self.folder}/{name}{stored.PARTIAL}", stoppable=False)

    def undo(self, name):
        self.discard(name)
        if self.is_new:
            self.there("sh", "-c", 'rmdir -- "$1" 2>/dev/null; :', "sh", self.folder, stoppable=False)

    def discard_parts(self):
        """Removes incomplete generations of this run, and of runs that were killed."""
        self.there("sh", "-c", 'for p in "$1"/*.partial; do [ ! -d "$p" ] || rm -rf -- "$p"; done', "sh",
                   self.folder)
