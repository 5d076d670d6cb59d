#!/usr/bin/env python3
"""Checks that files include only their own and lower layers, that neither files nor folders depend on
each other in a circle, that only one folder uses libnbd, the length of files, and that seconds are
converted to microseconds in one place, in 64 bits."""
import pathlib
import re
import sys

LONGEST = 600  # lines
SECONDS = "include/util/deadline.h"

root = pathlib.Path(sys.argv[1])
# src/meson.build lists the layers, lowest first.
layers = re.findall(r"'(\w+)'",
                    re.search(r"foreach layer : (\[.*?\])", (root / "src/meson.build").read_text())[1])
# A separate program, above them.
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



def circles(edges):
    """Returns the sets of nodes in EDGES (node: its successors) that reach each other."""
    reach = {node: set(to) for node, to in edges.items()}
    for middle in edges:
        for node in edges:
            if middle in reach[node]:
                reach[node] |= reach[middle]
    return {frozenset(n for n in reach[node] if n in reach and node in reach[n])
            for node in reach if node in reach[node]}


sources = {path.relative_to(root / "src"): path.read_text() for path in root.glob("src/*/**/*.c")}
defined = {name: path for path, text in sources.items()
           for name in re.findall(r"^(?!static\b)\w[\w \*]*\b(fl_\w+)\([^;]*?\)\n\{", text, re.M)}
calls = {path: {defined[name] for name in set(re.findall(r"\bfl_\w+", text)) & defined.keys()} - {path}
         for path, text in sources.items()}
folders = {path.parent: set() for path in sources}
for path, to in calls.items():
    folders[path.parent] |= {other.parent for other in to} - {path.parent}
for what, edges in (("files", calls), ("folders", folders)):
    faults.extend(f"{what} that depend on each other in a circle: {', '.join(sorted(map(str, circle)))}"
                  for circle in circles(edges))
faults.extend(f"src/{path}: includes libnbd.h, which only source/nbd/ may use"
              for path, text in sources.items()
              if "<libnbd.h>" in text and path.parent.parts != ("source", "nbd"))

for path in sorted([*root.glob("contrib/fleecefs-*"), *root.glob("contrib/*/*.py")]):
    if path.suffix != ".1" and path.read_text().count("\n") > LONGEST:
        faults.append(f"{path.relative_to(root)}: more than {LONGEST} lines: split it")

print(*faults, sep="\n")
sys.exit(1 if faults else 0)
