#!/usr/bin/env python3
"""A release: the Debian package builds from its tarball, and is clean and complete."""
import glob
import os
import re
import subprocess

import lib

# Compiling everything again takes longer than any other step.
COMPILING = 10 * lib.PATIENCE


class Package(lib.TestCase):
    def unpack_release(self):
        """Returns the tree of a release tarball of what is committed; the tests' tree without git."""
        if lib.attempt("git", "-C", lib.TOP, "rev-parse").returncode != 0:
            return lib.TOP
        source, build = self.mkdir("source"), self.mkdir("build")
        lib.run("git", "clone", "-q", lib.TOP, source)
        lib.run("meson", "setup", build, source, timeout=COMPILING)
        lib.run("meson", "dist", "-C", build, "--no-tests", "--formats", "gztar")
        tarball, = glob.glob(build + "/meson-dist/*.tar.gz")
        lib.run("tar", "-C", self.dir, "-xf", tarball)
        unpacked, = glob.glob(self.dir + "/fleecefs-*/")
        return unpacked

    def test_deb(self):
        lib.require("dpkg-buildpackage", "dh", "lintian", "ddrescue")
        out, root = self.mkdir("out"), self.mkdir("root")
        lib.run(self.unpack_release() + "/contrib/make-deb", out, timeout=COMPILING)
        deb, = glob.glob(out + "/fleecefs_*.deb")
        # It leaves temporary files.
        said = lib.run("lintian", "--fail-on", "error,warning", deb, stderr=subprocess.STDOUT,
                       env={**os.environ, "TMPDIR": self.mkdir("lintian")})
        self.assertNotRegex(said, "(?m)^[EW]:")
        lib.run("dpkg-deb", "--extract", deb, root)
        said = lib.run(root + "/usr/share/doc/fleecefs/examples/demo", timeout=COMPILING,
                       env={**os.environ, "PATH": f"{root}/usr/bin:{os.environ['PATH']}"})
        self.assertNotIn("building", said)
        self.assertRegex(said, r"\ndemo: OK: [^\n]+\n\Z")

    def test_lists_of_packages_agree(self):
        """contrib/install-deps installs the package's Build-Depends."""
        with open(lib.TOP + "/contrib/install-deps") as f:
            build = f.read().partition("build=(")[2].partition("\n)")[0]
        with open(lib.TOP + "/contrib/debian/control") as f:
            needed = f.read().partition("Build-Depends:")[2].partition("Standards-Version")[0]
        wanted = {p for p in re.findall(r"(?m)^ +(\S+)", build) if p.endswith("-dev")} - {"libc6-dev"}
        self.assertEqual(set(re.findall(r"(?m)^ (\S+-dev),", needed)), wanted)


if __name__ == "__main__":
    lib.main()
