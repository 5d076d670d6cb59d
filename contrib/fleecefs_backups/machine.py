# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a VM is beside its disks: the domain's definition, its NVRAM and TPM, or what QEMU tells.

    vm.xml        libvirt's definition of the domain, as it will be at its next start
    vm.nvram      the variables of its UEFI firmware
    vm.tpm.tar    the state of its emulated TPM
    vm.qmp.json   of a QEMU without libvirt: its answers to query-* commands
"""
import functools
import json
import os
import shutil
import socket
import urllib.parse
import xml.etree.ElementTree as ElementTree

from . import durable
from .commands import Failed, ask, log

XML, NVRAM, TPM, QMP = "vm.xml", "vm.nvram", "vm.tpm.tar", "vm.qmp.json"
FILES = (XML, NVRAM, TPM, QMP)
MARK = "urn:fleecefs:backup"  # the namespace of our mark in a domain's metadata
QUESTIONS = ("query-name", "query-uuid", "query-version", "query-target", "query-kvm", "query-status",
             "query-memory-size-summary", "query-cpus-fast", "query-block", "query-chardev",
             "query-pci", "query-tpm", "query-vnc")
PATIENCE = 10  # seconds that a monitor has for an answer


def virsh(uri, *words):
    return ask("virsh", *(["--connect", uri] if uri else []), *words, quiet=True)


def definition(vm):
    """The domain's definition as its next start takes it: (text, its root element)."""
    def dumped(domain):
        text = virsh(vm.uri, "dumpxml", "--inactive", "--security-info", "--domain", domain)
        return text, ElementTree.fromstring(text)

    text, root = dumped(vm.domain)
    if root.findtext("name") != vm.domain:
        # virsh takes a name that is a number, or looks like a UUID, for that.
        for uuid in virsh(vm.uri, "list", "--all", "--uuid").split():
            text, root = dumped(uuid)
            if root.findtext("name") == vm.domain:
                break
        else:
            raise Failed(f"there is no domain {vm.domain}")
    return text, root


@functools.lru_cache(maxsize=None)
def known(vm):
    """The same, asked for once; None if it cannot be had, which is said."""
    try:
        return definition(vm)
    except (Failed, OSError, ElementTree.ParseError) as why:
        log(f"{vm.name}: libvirt does not tell what it is, so only its disks are saved: {why}")
        return None


def marks(root):
    """What a domain's metadata leave out: True for all of it, or the targets of some disks.

    <backup xmlns="urn:fleecefs:backup"> <exclude/> or <exclude disk="vdb"/>... </backup>
    """
    found = [e.get("disk") for e in root.iterfind(f"metadata/{{{MARK}}}backup/{{{MARK}}}exclude")]
    return True if None in found else set(found)


def disks_but(root):
    """The option of fleecefs that leaves out the disks that are marked so; none if none is, or if it
    is for fleecefs to refuse a disk that several VMs share."""
    wanted, excluded = [], marks(root)
    if not excluded or excluded is True:  # all of it: that is for --all only
        return []
    for disk in root.iterfind("devices/disk"):
        target = disk.find("target").get("dev")
        if disk.get("device", "disk") != "disk" or disk.find("readonly") is not None or \
                target in excluded:
            continue
        if disk.find("shareable") is not None:
            return []
        wanted.append(target)
    if not wanted:
        raise Failed("all of its disks are marked to be left out")
    return ["--option=disk=" + ":".join(wanted)]


def is_here(uri):
    """Whether the files of a libvirt's VMs are this host's."""
    return not urllib.parse.urlsplit(uri or "").netloc


def nvram_path(root):
    nvram = root.find("os/nvram")
    if nvram is None:
        return None
    source = nvram.find("source")
    return source.get("file") if source is not None else (nvram.text or "").strip() or None


def tpm_folder(root, uri):
    """Where libvirt keeps the state of an emulated TPM; None if the domain has none."""
    backend = root.find("devices/tpm/backend[@type='emulator']")
    if backend is None:
        return None
    source = backend.find("source[@type='dir']")
    if source is not None:
        return source.get("path")
    session = urllib.parse.urlsplit(uri or "qemu:///system").path == "/session"
    top = os.path.join(os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config"),
                       "libvirt/qemu/swtpm") if session else "/var/lib/libvirt/swtpm"
    return os.path.join(top, root.findtext("uuid"))


class Monitor:
    """A QEMU's monitor, for questions."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(path)
        self.file = self.socket.makefile("r")
        self.file.readline()
        self.ask("qmp_capabilities")

    def ask(self, command):
        """The answer; None if this QEMU does not know."""
        self.socket.sendall(json.dumps({"execute": command}).encode() + b"\n")
        while line := self.file.readline():
            said = json.loads(line)
            if "return" in said or "error" in said:
                return said.get("return")
        raise Failed("its monitor was closed")

    def close(self):
        self.file.close()
        self.socket.close()


def capture_qmp(vm, folder):
    monitor = Monitor(vm.place.removeprefix("qmp:"))
    try:
        said = {question: monitor.ask(question) for question in QUESTIONS}
    finally:
        monitor.close()
    durable.write_json(os.path.join(folder, QMP), {"version": 1, **{
        k: v for k, v in said.items() if v is not None}})


def capture_domain(vm, folder):
    if not known(vm):
        return
    text, root = known(vm)
    durable.write(os.path.join(folder, XML), text, mode=0o400)  # it has passwords
    nvram, tpm = nvram_path(root), tpm_folder(root, vm.uri)
    if (nvram or tpm) and not is_here(vm.uri):
        log(f"{vm.name}: its NVRAM and TPM are on another host and are not saved")
        return
    # A firmware that was never started has no variables yet.
    if nvram and os.path.exists(nvram):
        shutil.copyfile(nvram, os.path.join(folder, NVRAM))
        os.chmod(os.path.join(folder, NVRAM), 0o400)
    if tpm and os.path.isdir(tpm):
        ask("tar", "-cf", os.path.join(folder, TPM), "-C", tpm, ".")
        os.chmod(os.path.join(folder, TPM), 0o400)


def capture(vm, folder):
    """Writes what VM is into FOLDER; the names of the files. A VM of which it cannot be had is backed
    up all the same."""
    for name in FILES:
        if os.path.lexists(os.path.join(folder, name)):
            os.unlink(os.path.join(folder, name))
    try:
        if vm.domain:
            capture_domain(vm, folder)
        elif not vm.is_image:
            capture_qmp(vm, folder)
    except (Failed, OSError, ValueError) as why:
        log(f"{vm.name}: what the VM is beside its disks is not saved: {why}")
    return [name for name in FILES if os.path.exists(os.path.join(folder, name))]
