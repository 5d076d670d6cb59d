# SPDX-License-Identifier: LGPL-2.1-or-later
"""State of a VM other than its disks: the domain's definition, NVRAM and TPM, or QEMU's answers.

    vm.xml        libvirt's definition of the domain, as it will be at its next start
    vm.nvram      the variables of its UEFI firmware
    vm.tpm.tar    the state of its emulated TPM
vm.qmp.json   without libvirt: QEMU's answers to query-* commands
"""
import functools
import json
import os
import shutil
import socket
import time
import urllib.parse
import xml.etree.ElementTree as ElementTree

from . import durable, stored
from .commands import Failed, ask
from .text import plain

XML, NVRAM, TPM, QMP = "vm.xml", "vm.nvram", "vm.tpm.tar", "vm.qmp.json"
FILES = (XML, NVRAM, TPM, QMP)
MARK = "urn:fleecefs:backup"  # the namespace of our mark in a domain's metadata
QUESTIONS = ("query-name", "query-uuid", "query-version", "query-target", "query-kvm", "query-status",
             "query-memory-size-summary", "query-cpus-fast", "query-block", "query-chardev",
             "query-pci", "query-tpm", "query-vnc")
PATIENCE = 10  # seconds that a monitor has for an answer
ANSWER_MAX = 16 << 20  # bytes


def virsh(uri, *words):
    return ask("virsh", *(["--connect", uri] if uri else []), *words, quiet=True)


def definition(vm):
    """Returns the domain's persistent definition: (text, its root element)."""
    def dumped(domain):
        text = virsh(vm.uri, "dumpxml", "--inactive", "--security-info", "--domain", domain)
        return text, ElementTree.fromstring(text)

    text, root = dumped(vm.domain)
    if root.findtext("name") != vm.domain:
        # virsh takes names that look like a number or a UUID for an id or a UUID.
        for uuid in virsh(vm.uri, "list", "--all", "--uuid").split():
            text, root = dumped(uuid)
            if root.findtext("name") == vm.domain:
                break
        else:
            raise Failed(f"there is no domain {vm.domain}")
    return text, root


@functools.lru_cache(maxsize=None)
def known(vm):
    """Same as definition(), cached; None, with a message, if it is unavailable."""
    try:
        return definition(vm)
    except (Failed, OSError, ElementTree.ParseError) as why:
        vm.notes.append(f"cannot get its definition from libvirt, only its disks are saved: {plain(why)}")
        return None


def marks(root):
    """Returns what a domain's metadata exclude: True for the whole VM, or the targets of disks.

    <backup xmlns="urn:fleecefs:backup"> <exclude/> or <exclude disk="vdb"/>... </backup>
    """
    found = [e.get("disk") for e in root.iterfind(f"metadata/{{{MARK}}}backup/{{{MARK}}}exclude")]
    return True if None in found else set(found)


def is_read_only(disk):
    return disk.find("readonly") is not None or disk.get("device") == "cdrom"


def disks_but(root, read_only):
    """Returns the option of fleecefs that excludes the marked disks; none if no disk is marked, or if
    fleecefs has to refuse a shared disk. READ_ONLY: includes read-only disks."""
    wanted, excluded = [], marks(root)
    if not excluded or excluded is True:  # all of it: that is for --all only
        return []
    for disk in root.iterfind("devices/disk"):
        target = disk.find("target").get("dev")
        if target in excluded:
            continue
        if is_read_only(disk):
            if read_only and disk.find("source") is not None:
                wanted.append(target)
            continue
        if disk.get("device", "disk") != "disk":
            continue
        if disk.find("shareable") is not None:
            return []
        wanted.append(target)
    if not wanted:
        raise Failed("its metadata exclude all of its disks")
    return ["--option=disk=" + ":".join(wanted)]


def is_here(uri):
    """Whether the files of the VMs of a libvirt are on this host."""
    return not urllib.parse.urlsplit(uri or "").netloc


def nvram_path(root):
    nvram = root.find("os/nvram")
    if nvram is None:
        return None
    source = nvram.find("source")
    return source.get("file") if source is not None else (nvram.text or "").strip() or None


def tpm_folder(root, uri):
    """Returns libvirt's folder with the state of an emulated TPM; None if the domain has none."""
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
    """A QMP monitor, for queries."""

    def __init__(self, path):
        self.socket, self.said = socket.socket(socket.AF_UNIX), b""
        try:
            self.socket.settimeout(PATIENCE)
            self.socket.connect(path)
            self.read(time.monotonic() + PATIENCE)
            self.ask("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    def read(self, deadline):
        """Returns the next message; raises TimeoutError also if it arrives byte by byte."""
        while b"\n" not in self.said:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("its monitor does not answer")
            self.socket.settimeout(left)
            data = self.socket.recv(1 << 16)
            if not data:
                raise Failed("its monitor was closed")
            self.said += data
            if len(self.said) > ANSWER_MAX:
                raise Failed("its monitor sends too much")
        line, _, self.said = self.said.partition(b"\n")
        return stored.parse_json(line)

    def ask(self, command):
        """Returns the answer; None if this QEMU does not support COMMAND."""
        deadline = time.monotonic() + PATIENCE
        self.socket.settimeout(PATIENCE)
        self.socket.sendall(json.dumps({"execute": command}).encode() + b"\n")
        while time.monotonic() < deadline:
            said = self.read(deadline)
            if "return" in said or "error" in said:
                return said.get("return")
        raise TimeoutError("its monitor sends events only")

    def close(self):
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
        vm.notes.append("its NVRAM and TPM are on another host and are not saved")
        return
    # A VM that was never started has no NVRAM file yet.
    if nvram and os.path.exists(nvram):
        shutil.copyfile(nvram, os.path.join(folder, NVRAM))
        os.chmod(os.path.join(folder, NVRAM), 0o400)
    if tpm and os.path.isdir(tpm):
        ask("tar", "-cf", os.path.join(folder, TPM), "-C", tpm, ".")
        os.chmod(os.path.join(folder, TPM), 0o400)


def capture(vm, folder):
    """Writes the state of VM to FOLDER; returns the names of the files. A VM is backed up even if its
    state is unavailable."""
    for name in FILES:
        if os.path.lexists(os.path.join(folder, name)):
            os.unlink(os.path.join(folder, name))
    try:
        if vm.domain:
            capture_domain(vm, folder)
        elif not vm.is_image:
            capture_qmp(vm, folder)
    except (Failed, stored.Damaged, OSError, ValueError) as why:
        vm.notes.append(f"its definition and state are not saved: {plain(why)}")
    return [name for name in FILES if os.path.exists(os.path.join(folder, name))]
