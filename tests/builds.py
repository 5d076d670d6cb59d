#!/usr/bin/env python3
"""Builds without optional libraries: without all, or ("each") also without one at a time. Compiler
warnings are failures, and the program must report missing features."""
import os
import subprocess
import sys
import tempfile

root, each = sys.argv[1], "each" in sys.argv[2:]
OPTIONAL = ("libvirt", "partitions", "seccomp", "changed")


def run(*command, **kwargs):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          **kwargs)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout[-8000:]}")
    return done.stdout


def build(folder, without, *options):
    run("meson", "setup", folder, root, "-Dwerror=true", "-Doptimization=0",
        "-Dc_args=-Wno-error=deprecated-declarations",
        *(f"-D{name}={'disabled' if name in without else 'enabled'}" for name in OPTIONAL), *options)
    run("meson", "compile", "-C", folder)


with tempfile.TemporaryDirectory() as folder:
    build(folder, OPTIONAL, "-Dtests=false")
    program = f"{folder}/src/fleecefs"
    if "--since" not in run(program, "--help"):
        sys.exit("--help does not list the options of libvirt")
    mountpoint = f"{folder}/mnt"
    os.mkdir(mountpoint)
    refused = subprocess.run([program, "libvirt:web", mountpoint], stderr=subprocess.PIPE, text=True)
    if refused.returncode != 2 or "built without libvirt" not in refused.stderr:
        sys.exit(f"libvirt:web is not refused correctly: {refused}")
    if os.path.exists(f"{folder}/src/fleecefs-changed"):
        sys.exit("fleecefs-changed was built")

for name in OPTIONAL if each else ():
    with tempfile.TemporaryDirectory() as folder:
        # fleecefs-changed requires the system call filter.
        build(folder, {name, "changed"} if name == "seccomp" else {name})
        run("meson", "test", "-C", folder, "--no-rebuild", "--suite", "unit")
