#!/usr/bin/env python3
"""An unprivileged user backs up a VM of qemu:///session, the default connection."""
import json
import os
import pwd
import shutil
import socket
import subprocess

import lib
import vm
from libvirtd import QEMU_CONF
from vm import Disk

XML = """<domain type='qemu'><name>mine</name><memory unit='MiB'>32</memory>
    <os><type arch='x86_64' machine='q35'>hvm</type></os><devices><emulator>{}</emulator>
    <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/>
    <target dev='vda' bus='virtio'/><alias name='ua-vda'/></disk>
    <controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"""


class Session(lib.TestCase):
    def setUp(self):
        lib.require("unshare", "libvirtd", "virsh", vm.QEMU)
        super().setUp()
        self.need_other_users()
        os.chmod(self.dir, 0o755)
        self.home = self.mkdir("home")
        self.nobody = pwd.getpwnam("nobody")
        self.env = {**os.environ, "HOME": self.home, "XDG_RUNTIME_DIR": f"{self.home}/run",
                    "TMPDIR": self.home}
        for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME",
                     "FLEECEFS_STATE_DIR"):
            self.env.pop(name, None)
        self.user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        for name in ("run", "mnt", "scratch", ".config", ".config/libvirt"):
            os.mkdir(f"{self.home}/{name}")
        with open(f"{self.home}/.config/libvirt/qemu.conf", "w") as f:
            f.write(QEMU_CONF)
        # The original may be in a folder of root.
        self.program = f"{self.home}/fleecefs"
        shutil.copy(lib.FLEECEFS[0], self.program)

    def give(self, *paths):
        for path in paths:
            os.chown(path, self.nobody.pw_uid, self.nobody.pw_gid)

    def run_user(self, *argv):
        return lib.run(*self.user, *argv, env=self.env)

    def start_libvirtd(self):
        """Starts it in a PID namespace, with which it and its VMs end; clients wait for it."""
        os.mkdir(f"{self.home}/run/libvirt")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"{self.home}/run/libvirt/libvirt-sock")
            listener.listen(8)
            for folder, folders, files in os.walk(self.home):
                self.give(folder, *(f"{folder}/{n}" for n in folders + files))
            process = subprocess.Popen(
                # Copies of other tests' mounts would prevent their unmount. And PID 1 has
                # to reap orphans.
                ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", """
                     umount --lazy --all --types fuse.fleecefs
                     "$@" sh -c 'LISTEN_PID=$$ exec libvirtd'
                     true""", "sh", *self.user],
                env={**self.env, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "libvirtd.socket"},
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                pass_fds=[listener.fileno()], preexec_fn=lib.Server._prepare(listener.fileno()))

        def end():
            process.kill()
            process.wait()

        self.defer(end)

    def test_backup(self):
        disk = Disk(self, "vda", lib.MIB)
        self.give(disk.image, self.dir)
        self.start_libvirtd()
        xml = f"{self.home}/domain.xml"
        with open(xml, "w") as f:
            f.write(XML.format(shutil.which(vm.QEMU), disk.image))
        self.run_user("virsh", "define", xml)
        self.run_user("virsh", "start", "mine", "--paused")
        point, scratch = f"{self.home}/mnt", f"{self.home}/scratch"
        self.defer(subprocess.run, ["umount", "-l", "-q", point])
        for mode in ("full", "incremental"):
            self.run_user("virsh", "qemu-monitor-command", "mine", "--hmp",
                          'qemu-io -d /machine/peripheral/ua-vda/virtio-backend '
                          '"write -P 7 65536 65536"')
            self.run_user(self.program, "-o", f"scratch={scratch}", "libvirt:mine", point)
            info = json.loads(self.run_user("cat", f"{point}/vda/info.json"))
            self.assertEqual(info["mode"], mode)
            data = self.run_user("head", "-c", "131072", f"{point}/vda/disk.raw")
            self.assertEqual(data, "\0" * 65536 + "\7" * 65536)
            self.run_user(self.program, "--commit", "--force", point)
            self.assertEqual(os.listdir(scratch), [])
            self.assertFalse(lib.is_mounted(point))
        points = self.run_user("virsh", "checkpoint-list", "mine", "--name").split()
        self.assertEqual(len(points), 1)
        # The state is the user's.
        self.assertTrue(os.path.isdir(f"{self.home}/.local/state/fleecefs"))


if __name__ == "__main__":
    lib.main()
