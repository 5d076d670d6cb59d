#!/usr/bin/env python3
"""TLS: certificates and pre-shared keys, verified by default, and no credential shown anywhere."""
import os

import lib

# Unique: parallel runs see each other's processes.
USER = f"alice-{os.getpid()}-of-the-keys"
PASSWORD = f"hunter-{os.getpid()}"


class Tls(lib.TestCase):
    def setUp(self):
        super().setUp()
        lib.require("certtool", "psktool", "nbdkit", "qemu-nbd")
        self.image = os.path.join(self.dir, "disk.raw")
        self.disk = self.rng.randbytes(lib.MIB)
        with open(self.image, "wb") as f:
            f.write(self.disk)

    def authority(self, name):
        """Creates a folder with a new CA, and a server certificate signed by it."""
        folder = self.mkdir(name)

        def certtool(*args):
            lib.run("certtool", *args, cwd=folder)

        def template(file, *lines):
            with open(f"{folder}/{file}", "w") as f:
                f.write("\n".join([*lines, "expiration_days = 2", ""]))
        template("ca.info", f"cn = {name}", "ca", "cert_signing_key")
        template("server.info", "cn = localhost", "dns_name = localhost", "ip_address = 127.0.0.1",
                 "tls_www_server", "encryption_key", "signing_key")
        for key in ("ca-key.pem", "server-key.pem"):
            certtool("--generate-privkey", "--key-type=ecdsa", "--outfile", key)
        certtool("--generate-self-signed", "--load-privkey", "ca-key.pem", "--template", "ca.info",
                 "--outfile", "ca-cert.pem")
        certtool("--generate-certificate", "--load-ca-certificate", "ca-cert.pem",
                 "--load-ca-privkey", "ca-key.pem", "--load-privkey", "server-key.pem",
                 "--template", "server.info", "--outfile", "server-cert.pem")
        return folder

    def keys(self):
        path = self.path("keys.psk")
        lib.run("psktool", "-u", USER, "-p", path)
        return path

    def check(self, uri, *secrets):
        """Mounts and reads; SECRETS must not appear anywhere."""
        with self.mount(uri, options=["-v"]) as mount:
            self.assertEqual(mount.read("default/disk.raw", "rb") == self.disk, True)
            shown = [mount.output(), mount.read("default/info.json")]
            status = mount / ".fleecefs"
            shown += [mount.read(os.path.join(status, name)) for name in os.listdir(status)]
            for name in os.listxattr(mount / "default/disk.raw"):
                shown.append(os.getxattr(mount / "default/disk.raw", name).decode())
            with open("/proc/self/mounts") as f:
                shown += [line for line in f if mount.point in line]
            for text in shown:
                for secret in secrets:
                    self.assertNotIn(secret, text)
            # Process arguments contain paths of keys as given; never user names or the
            # keys.
            for line in lib.run("ps", "-ww", "-eo", "args").splitlines():
                if mount.point in line:
                    self.assertIn("tls-", line)
                    self.assertNotIn(USER, line)
                    self.assertNotIn(secrets[-1], line)

    def refused(self, uri):
        said = self.assert_refused("-o", "timeout=10", uri, self.mkdir("mnt"))
        self.assertNotIn(USER, said)

    def test_certificates(self):
        ours, other = self.authority("ours"), self.authority("other")
        server = self.nbdkit("--tls=require", f"--tls-certificates={ours}", "file", self.image,
                             tcp=True)
        port = server.address[1]
        with open(ours + "/server-key.pem") as f:
            key = f.read().splitlines()[-2]
        self.check(f"nbds://localhost:{port}/?tls-certificates={ours}", ours, key)
        self.refused(f"nbds://localhost:{port}/?tls-certificates={other}")
        # The certificate does not include this name.
        self.refused(f"nbds://127.0.0.2:{port}/?tls-certificates={ours}")
        # Refused without TLS, and with other CAs.
        self.refused(f"nbd://localhost:{port}/")
        self.refused(f"nbds://localhost:{port}/")

    def test_certificates_over_a_unix_socket(self):
        ours, other = self.authority("ours"), self.authority("other")
        server = self.nbdkit("--tls=require", f"--tls-certificates={ours}", "file", self.image)
        uri = f"nbds+unix:///?socket={server.path}&tls-certificates="
        self.refused(uri + other)
        # Old libnbd cannot verify it: the connection is refused rather than trusted.
        point = self.mkdir("mnt")
        done = self.fleecefs(uri + ours, point)
        if done.returncode == 0:
            lib.run("fusermount3", "-u", point)
        else:
            self.assertIn("CVE-2024-7383", done.stderr)

    def test_pre_shared_keys(self):
        keys, others = self.keys(), self.keys()
        server = self.nbdkit("--tls=require", f"--tls-psk={keys}", "file", self.image)
        with open(keys) as f:
            secret = f.read().strip().split(":")[1]
        self.check(f"nbds+unix://{USER}@/?socket={server.path}&tls-psk-file={keys}", USER, keys,
                   secret)
        self.refused(f"nbds+unix://{USER}@/?socket={server.path}&tls-psk-file={others}")
        self.refused(f"nbds+unix://mallory@/?socket={server.path}&tls-psk-file={keys}")

    def test_a_password_in_a_uri(self):
        """NBD has no passwords; one given by mistake is not shown anywhere."""
        server = self.nbdkit("file", self.image)
        uri = f"nbd+unix://{USER}:{PASSWORD}@/?socket={server.path}"
        with self.mount(uri, options=["-v"]) as mount:
            shown = [mount.output(), mount.read("default/info.json"),
                     mount.read(".fleecefs/status.json"), mount.read(".fleecefs/metrics"),
                     lib.run("ps", "-ww", "-eo", "args")]
            for text in shown:
                self.assertNotIn(PASSWORD, text)
                self.assertNotIn(USER, text)
        server.kill()
        said = self.assert_refused(uri, self.mkdir("mnt"))
        self.assertNotIn(PASSWORD, said)
        self.assertNotIn(USER, said)

    def test_qemu_nbd(self):
        folder = self.mkdir("psk")
        lib.run("psktool", "-u", USER, "-p", folder + "/keys.psk")
        server = self.qemu_nbd(self.image, "-f", "raw", "--read-only", "--object",
                               f"tls-creds-psk,id=tls,endpoint=server,dir={folder}",
                               "--tls-creds=tls", tcp=True)
        with open(folder + "/keys.psk") as f:
            secret = f.read().strip().split(":")[1]
        port = server.address[1]
        self.check(f"nbds://{USER}@localhost:{port}/?tls-psk-file={folder}/keys.psk", USER, secret)

    def test_missing_or_wrong_files(self):
        """A typo must not disable verification: the server has a certificate of another CA."""
        stranger = self.authority("stranger")
        server = self.nbdkit("--tls=require", f"--tls-certificates={stranger}", "file", self.image,
                             tcp=True)
        port, missing, empty = server.address[1], self.path("missing"), self.mkdir("empty")
        hollow, folder = self.mkdir("hollow"), self.mkdir("folder")
        open(hollow + "/ca-cert.pem", "w").close()
        os.mkdir(folder + "/ca-cert.pem")
        text = self.path("text")
        with open(text, "w") as f:
            f.write("no key\n")
        queries = {f"tls-certificates={missing}": missing, f"tls-certificates={empty}": empty,
                   f"tls-certificates={hollow}": "no certificate",
                   f"tls-certificates={folder}": "not a file",
                   f"tls-psk-file={missing}": missing, f"tls-psk-file={text}": "no key",
                   f"tls-psk-file={empty}": "not a file",
                   f"tls-certificate={stranger}": "does not exist"}
        for query, word in queries.items():
            with self.subTest(query):
                said = self.assert_refused("-o", "timeout=10", f"nbds://localhost:{port}/?{query}",
                                           self.mkdir("mnt"), says=[word])
                self.assertNotIn("requires TLS", said)

    def test_keys_for_a_connection_in_clear(self):
        server = self.nbdkit("file", self.image)
        self.assert_refused(f"{server.uri}&tls-psk-file={self.keys()}", self.mkdir("mnt"),
                            says=["nbds:"])

    def test_a_server_without_tls(self):
        """If TLS is requested, nothing is sent unencrypted."""
        server = self.nbdkit("file", self.image)
        self.refused(f"nbds+unix://{USER}@/?socket={server.path}&tls-psk-file={self.keys()}")


if __name__ == "__main__":
    lib.main()
