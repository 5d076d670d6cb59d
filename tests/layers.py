#!/usr/bin/env python3
"""Checks that a file includes only its own layer and lower ones, that no file grows too long, and that
seconds become microseconds in one place, in 64 bits."""
import pathlib
import re
import sys

LONGEST = 600  # lines
SECONDS = "include/util/deadline.h"

root = pathlib.Path(sys.argv[1])
# src/meson.build lists the layers, lowest first.
layers = re.findall(r"'(\w+)'",
                    re.search(r"foreach layer : (\[.*?\])", (root / "src/meson.build").read_text())[1])
# A program of its own, above them.
layers.append("changed")
faults = []
for path in sorted([*root.glob("src/*/**/*.[ch]"), *root.glob("include/*/**/*.h")]):
    name = path.relative_to(root)
    layer, text = name.parts[1], path.read_text()
    if layer not in layers:
        faults.append(f"{name}: {layer}/ is not among the layers in src/meson.build")
        continue
    for included in re.findall(r'^#include "(\w+)/', text, re.M):
        if included not in layers[:layers.index(layer) + 1]:
            faults.append(f"{name}: includes {included}/, which is not below {layer}/")
    if str(name) != SECONDS and re.search(
            r"(?i)(seconds|timeout|reconnect)\w*\)? *\* *(G_USEC_PER_SEC|1000000)\b", text):
        faults.append(f"{name}: multiplies seconds itself: {SECONDS} does")
    if text.count("\n") > LONGEST:
        faults.append(f"{name}: {text.count(chr(10))} lines, more than {LONGEST}: split it")

for path in sorted([*root.glob("contrib/fleecefs-*"), *root.glob("contrib/*/*.py")]):
    if path.suffix != ".1" and path.read_text().count("\n") > LONGEST:
        faults.append(f"{path.relative_to(root)}: more than {LONGEST} lines: split it")

print(*faults, sep="\n")
sys.exit(1 if faults else 0)
