#!/usr/bin/env python3
"""A VM on another host, with libvirt over TLS or TCP and its disks over NBD with TLS: mount, back up,
commit and abort; wrong certificates, ports in use, broken connections, and leftovers of a crash in the
storage pool."""
import os
import random
import re
import shutil
import socket
import tempfile

import lib
import libvirtd
import qmp_mount
import sshd
from vm import Disk

_pki = None


def make_pki(folder):
    """Creates a CA and certificates: libvirt and QEMU as servers, libvirt and libnbd as clients."""
    def certtool(*args):
        lib.run("certtool", *args, cwd=folder)

    os.makedirs(folder)
    for name, lines in {"ca": ["cn = Test", "ca", "cert_signing_key"],
                        "server": ["cn = localhost", "dns_name = localhost", "tls_www_server",
                                   "encryption_key", "signing_key"],
                        "client": ["cn = backup", "tls_www_client", "encryption_key",
                                   "signing_key"]}.items():
        with open(f"{folder}/{name}.info", "w") as f:
            f.write("\n".join([*lines, "expiration_days = 2", ""]))
        # libvirt requires keys for encipherment.
        certtool("--generate-privkey", "--key-type=rsa", "--bits=2048", "--outfile", f"{name}-key.pem")
        issuer = ["--generate-self-signed"] if name == "ca" else \
            ["--generate-certificate", "--load-ca-certificate", "ca-cert.pem", "--load-ca-privkey",
             "ca-key.pem"]
        certtool(*issuer, "--load-privkey", f"{name}-key.pem", "--template", f"{name}.info",
                 "--outfile", f"{name}-cert.pem")
    os.chmod(f"{folder}/server-key.pem", 0o644)  # readable by QEMU's user
    # Names that libvirt's clients expect.
    for name in ("ca-cert", "client-cert", "client-key"):
        os.symlink(f"{name}.pem", f"{folder}/{name.replace('-', '')}.pem")
    return folder


def pki():
    global _pki
    if _pki is None:
        lib.require("certtool")
        top = tempfile.mkdtemp(prefix="fleecefs-pki.", dir="/tmp")
        os.chmod(top, 0o755)
        lib._at_exit.callback(shutil.rmtree, top)
        _pki = make_pki(f"{top}/pki")
    return _pki


class RemoteTls(lib.TestCase):
    def setUp(self):
        super().setUp()
        self.pki = pki()
        self.libvirtd = libvirtd.shared(self.pki)
        self.point = self.mkdir("mnt")
        # Random, because tests run in parallel.
        self.port = random.randrange(20000, 32000, 2)

    def domain(self, *names):
        vm = libvirtd.Domain(self, [Disk(self, n, lib.MIB) for n in names or ["vda"]])
        self.pool = f"pool-{os.path.basename(self.dir)}"
        vm.virsh("pool-create-as", self.pool, "dir", "--target", vm.scratch)
        self.defer(lib.attempt, "virsh", "--connect", self.libvirtd.uri(), "pool-destroy", self.pool)
        return vm

    def source(self, vm, kind="tls", host="localhost"):
        if kind == "ssh":
            server = sshd.shared()
            known = server.write_known("tls", "host", server.port, host)
            return f"libvirt:{vm.name}?connect={server.uri(vm.libvirtd.socket, known=known, host=host)}"
        port = self.libvirtd.tls if kind == "tls" else self.libvirtd.tcp
        return f"libvirt:{vm.name}?connect=qemu+{kind}://{host}:{port}/system?pkipath={self.pki}"

    def words(self, vm, *options, tls=None, listen=None):
        return ["--scratch=" + vm.scratch, f"--nbd_tls={tls or self.pki}",
                f"--nbd_listen={listen or f'127.0.0.1:{self.port}-{self.port + 1}'}", *options]

    def begin(self, vm, *options, kind="tls", **kwargs):
        return self.mount(self.source(vm, kind), env=vm.environment(),
                          options=self.words(vm, *options, **kwargs))

    def end(self, vm, mount, command, *options):
        done = self.fleecefs(command, *options, mount.point)
        self.assertEqual((done.stderr, done.returncode), ("", 0))
        mount.check_gone()

    def refused(self, vm, *says, source=None, status=1, words=None):
        done = lib.attempt(*lib.FLEECEFS, *(self.words(vm) if words is None else words),
                           source or self.source(vm), self.point, env=vm.environment())
        # libvirt itself prints more lines about certificates.
        self.assertRegex(done.stderr, r"(^|\n)fleecefs: [^\n]+\n\Z")
        self.assertEqual(done.returncode, status, done.stderr)
        for word in says:
            self.assertIn(word, done.stderr.splitlines()[-1])

    def check_nothing_left(self, vm, points):
        self.assertEqual((vm.leftovers(), len(vm.checkpoints())), ([], points))

    def test_full_and_increments(self):
        """Over each transport; restore points are shared."""
        vm = self.domain("vda", "vdb")
        chains = {name: qmp_mount.Chain(self, name) for name in vm.disks}
        for kind, mode, command in (("tls", "full", "--commit"), ("tls", "incremental", "--abort"),
                                    ("tcp", "incremental", "--commit")):
            vm.scribble(self.rng, 2)
            expected = {n: bytes(d.model) for n, d in vm.disks.items()}
            mount = self.begin(vm, kind=kind)
            self.assertRegex(vm.job(), r"<server (?=.*transport='tcp')(?=.*tls='yes')")
            vm.scribble(self.rng, 1)
            for name in chains:
                self.assertEqual(mount.json(f"{name}/info.json")["mode"], mode)
            qmp_mount.back_up(mount, chains, expected, command == "--commit")
            self.end(vm, mount, command)
            self.check_nothing_left(vm, 1)

    def test_by_ssh_too(self):
        """libvirt by ssh, the disks by TLS."""
        vm = self.domain()
        vm.scribble(self.rng, 2)
        mount = self.begin(vm, kind="ssh")
        self.assertIn("tls='yes'", vm.job())
        self.assertTrue(mount.read("vda/disk.raw", "rb") == vm.disks["vda"].model)
        self.end(vm, mount, "--commit")
        self.check_nothing_left(vm, 1)

    def test_certificates(self):
        """With a certificate of another CA, or none: nothing is transferred, and nothing is left."""
        vm, other = self.domain(), make_pki(self.path("other"))
        self.refused(vm, "certificate", words=self.words(vm, tls=other))
        self.check_nothing_left(vm, 0)
        self.refused(vm, "certificate",
                     source=self.source(vm).replace(self.pki, other))
        # A client without a certificate is refused.
        stranger = self.mkdir("stranger")
        shutil.copy(f"{self.pki}/ca-cert.pem", stranger)
        self.refused(vm, words=self.words(vm, tls=stranger))
        self.check_nothing_left(vm, 0)
        # So is a name that the server's certificate does not include.
        self.refused(vm, "127.0.0.1", source=self.source(vm, "tcp", "127.0.0.1"))
        self.check_nothing_left(vm, 0)
        mount = self.begin(vm)
        self.assertNotEqual(lib.attempt("nbdinfo", f"nbd://localhost:{self.nbd_port(vm)}/vda").returncode, 0)
        self.end(vm, mount, "--abort")
        self.check_nothing_left(vm, 0)

    def nbd_port(self, vm):
        return int(re.search(r"port='(\d+)'", vm.job())[1])

    def test_ports(self):
        """A port in use is skipped; if none is free, the mount fails with that reason."""
        vm = self.domain()
        taken = [socket.create_server(("127.0.0.1", self.port + n)) for n in range(2)]
        self.defer(lambda: [s.close() for s in taken])
        self.refused(vm, "Address already in use", "nbd_listen")
        self.check_nothing_left(vm, 0)
        taken.pop().close()
        for _ in range(3):
            mount = self.begin(vm)
            self.assertEqual(self.nbd_port(vm), self.port + 1)
            self.end(vm, mount, "--abort")
        self.check_nothing_left(vm, 0)

    def test_connection_killed(self):
        """Another connection takes over, also after a restart of libvirtd."""
        vm = self.domain()
        vm.scribble(self.rng, 2)
        expected = bytes(vm.disks["vda"].model)
        link = sshd.Link(self, self.port, host="127.0.0.2", own=self.port)
        mount = self.begin(vm, "-o", "readahead=0", listen=f"127.0.0.2:{self.port}")
        vm.scribble(self.rng, 1)
        path = mount / "vda/disk.raw"
        self.assertTrue(lib.read_direct(path) == expected[:4096])
        for _ in range(3):
            link.cut()
            self.assertTrue(qmp_mount.QmpMount.read_direct(path) == expected)
        self.libvirtd.kill()
        self.libvirtd.start()
        self.assertTrue(qmp_mount.QmpMount.read_direct(path) == expected)
        self.end(vm, mount, "--commit")
        self.check_nothing_left(vm, 1)

    def test_daemon_killed(self):
        """The next mount cleans up, or --recover, which needs no NBD certificates."""
        vm = self.domain()
        vm.scribble(self.rng, 2)
        for again in (True, False):
            mount = self.begin(vm)
            mount.kill()
            lib.run("umount", "-l", mount.point)
            self.assertEqual(len(os.listdir(vm.scratch)), 1)
            if again:
                mount = self.begin(vm)
                self.assertTrue(mount.read("vda/disk.raw", "rb") == vm.disks["vda"].model)
                self.end(vm, mount, "--abort")
            else:
                self.assertIn("ended a backup job", self.recover(vm))
            self.check_nothing_left(vm, 0)

    def recover(self, vm):
        return lib.run(*lib.FLEECEFS, "--recover", "--scratch=" + vm.scratch, self.source(vm),
                       env=vm.environment())

    def test_host_rebooted(self):
        """Scratch files outlive libvirt, QEMU and the daemon, then are removed; other files are kept."""
        vm = self.domain()
        vm.scribble(self.rng, 2)
        mount = self.begin(vm)
        vm.scribble(self.rng, 1)
        [scratch] = os.listdir(vm.scratch)
        mount.kill()
        lib.run("umount", "-l", mount.point)
        pid = vm.pid()
        self.libvirtd.kill()
        self.libvirtd.command(f"SIGKILL {pid}")
        self.libvirtd.start()
        for name in (scratch, "other.img"):
            with open(f"{vm.scratch}/{name}", "w") as f:
                f.write("x")
        self.recover(vm)
        self.assertEqual(os.listdir(vm.scratch), ["other.img"])
        os.unlink(f"{vm.scratch}/other.img")
        # libvirt cannot delete checkpoints of a VM that is shut off.
        vm.start()
        self.recover(vm)
        self.check_nothing_left(vm, 0)

    def test_wrong_words(self):
        vm = self.domain()
        self.refused(vm, "-o nbd_tls=DIR", words=["--scratch=" + vm.scratch], status=2)
        self.refused(vm, "applies to VMs on another host", source=vm.source(), status=2)
        self.refused(vm, "requires nbd_tls=DIR", words=["--nbd_listen=:1"], status=2)
        for value in ("", "[::1", "[::1]x", "a:0", "a:2-1", "a:1-70000", "a:x"):
            self.refused(vm, "is not ADDRESS", words=[f"--nbd_listen={value}"], status=2)
        missing = self.path("missing")
        self.refused(vm, "nbd_tls", missing, words=self.words(vm, tls=missing))
        self.refused(vm, "scratch directory", "storage pool",
                     words=[*self.words(vm), "--scratch=" + self.dir])
        self.check_nothing_left(vm, 0)
        vm.quit()
        self.refused(vm, "the VM is shut off", "another host")


if __name__ == "__main__":
    lib.main()
