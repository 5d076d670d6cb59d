#!/usr/bin/env python3
"""tests/hardening.py PROGRAM: checks that it is hardened: PIE, read-only relocations, non-executable
stack, stack protector and FORTIFY_SOURCE."""
import shutil
import subprocess
import sys

if not shutil.which("readelf"):
    sys.exit(77)


def readelf(*options):
    return subprocess.run(["readelf", "-W", *options, sys.argv[1]], stdout=subprocess.PIPE, text=True,
                          check=True).stdout


header, segments, dynamic, symbols = (readelf(o) for o in ("-h", "-l", "-d", "--dyn-syms"))
wanted = {
    "a position-independent executable": "DYN (" in header and "PIE" in dynamic,
    "read-only relocations": "GNU_RELRO" in segments and "NOW" in dynamic,
    "a stack that cannot be executed": not any("E" in line.split()[-2] for line in
                                               segments.splitlines() if "GNU_STACK" in line),
    "a stack protector": "__stack_chk_fail" in symbols,
    "checked copies (_FORTIFY_SOURCE)": "_chk@" in symbols.replace("__stack_chk_fail@", ""),
}
faults = [f"{sys.argv[1]} has not {what}" for what, found in wanted.items() if not found]
print(*faults, sep="\n")
sys.exit(1 if faults else 0)
