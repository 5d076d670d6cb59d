# SPDX-License-Identifier: LGPL-2.1-or-later
"""The VMs to back up, from the command line."""
import argparse
import collections
import fnmatch
import os
import re

from . import machine
from .commands import Failed, log
from .text import file_name, printable


class Source:
    """A VM: its name, the source to mount, and whether it is an image file."""

    def __init__(self, name, source, given, is_image=False):
        self.name, self.file, self.source = name, file_name(name), source
        self.given, self.is_image = given, is_image
        self.notes = []  # for the user, if its backup begins

    @property
    def place(self):
        """Returns the source without "?connect="."""
        return self.source.partition("?connect=")[0]

    @property
    def domain(self):
        """Returns its name in libvirt; "" if it is not a domain."""
        return self.place.removeprefix("libvirt:") if self.source.startswith("libvirt:") else ""

    @property
    def uri(self):
        """Returns the URI of its libvirt; "" for libvirt's default."""
        return self.source.partition("?connect=")[2]


def domains(connect):
    """Returns all domains of a libvirt."""
    try:
        names = machine.virsh(connect, "list", "--all", "--name")
    except Failed as why:
        raise Failed(f"the domains of libvirt cannot be listed: {why}") from None
    return [connected(Source(n, f"libvirt:{n}", given=False), connect)
            for n in filter(None, names.split("\n"))]


def named(text):
    """Parses NAME=SOURCE or SOURCE."""
    name, given, rest = re.fullmatch(r"(?s)(?:([^=/:?]+)(=))?(.*)", text).groups()
    is_image = False
    if rest in ("qmp:", "libvirt:") or rest.startswith("libvirt:?"):
        raise argparse.ArgumentTypeError(
            f"'{printable(text)}' needs " + ("the path of a monitor's socket" if rest == "qmp:" else
                                             "the name of a domain; virsh list --all shows them"))
    if rest.startswith("libvirt:"):
        own = rest.removeprefix("libvirt:").partition("?connect=")[0]
    elif rest.startswith("qmp:"):
        rest = "qmp:" + os.path.abspath(rest.removeprefix("qmp:"))
        own = os.path.splitext(os.path.basename(rest))[0]
    elif os.path.exists(rest) and not os.path.isdir(rest):
        rest, is_image = os.path.abspath(rest), True
        own = os.path.splitext(os.path.basename(rest))[0]
    else:
        raise argparse.ArgumentTypeError(
            f"'{printable(text)}' is neither qmp:SOCKET nor libvirt:DOMAIN nor an image file")
    if not (name or own) or name in (".", ".."):
        raise argparse.ArgumentTypeError(
            f"'{printable(text)}': '{name or ''}' is not a valid VM name; give "
            "another: NAME=SOURCE")
    return Source(name if given else own, rest, bool(given), is_image)


def connected(vm, connect):
    """Returns VM with the libvirt URI CONNECT, unless it has its own."""
    if vm.source.startswith("libvirt:") and connect and "?connect=" not in vm.source:
        vm.source += f"?connect={connect}"
    return vm


def is_left_out(vm, args):
    """Whether --all leaves out VM, by --exclude or by the domain's metadata."""
    if any(fnmatch.fnmatchcase(vm.name, pattern) for pattern in args.exclude):
        return True
    said = machine.known(vm)
    return bool(said) and machine.marks(said[1]) is True


def sources(args, parser):
    """Returns all VMs to back up, each once."""
    if len(args.connect) > 1 and any(vm.domain and not vm.uri for vm in args.source):
        parser.error("with several -c, each SOURCE must name its libvirt: libvirt:DOMAIN?connect=URI")
    listed, away = [], []
    for connect in (args.connect or [None]) if args.all else []:
        try:
            listed += domains(connect)
        except Failed as why:
            # VMs of other hosts are still backed up.
            if len(args.connect) < 2:
                raise
            log(f"{connect}: FAILED: {why}")
            away.append(connect)
    strange = [vm for vm in listed if "?connect=" in vm.name]
    for vm in strange:
        log(f"{vm.name}: FAILED: a SOURCE cannot name this domain: rename it")
    listed = [vm for vm in listed if not is_left_out(vm, args)]
    vms = {(vm.file, vm.source): vm for vm in
           [connected(vm, args.connect[0] if args.connect else None)
            for vm in args.source + listed if vm not in strange]}
    called = collections.defaultdict(list)
    for vm in vms.values():
        called[vm.file].append(vm)
    for same in called.values():
        if len(same) > 1:
            parser.error(f"{' and '.join(vm.source for vm in same)} would be stored under the same name, "
                         f"'{same[0].name}': give each a name of its own, NAME=SOURCE")
    return list(vms.values()), bool(strange or away)
