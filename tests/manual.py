#!/usr/bin/env python3
"""Checks fleecefs(1) against --help, both ways, and both manual pages for faults of their own."""
import pathlib
import re
import shutil
import subprocess
import sys

program, root = sys.argv[1], pathlib.Path(sys.argv[2])
pages = sorted([*root.glob("src/*.[15]"), *root.glob("contrib/*.[15]")])
faults = []

said = subprocess.run([program, "--help"], stdout=subprocess.PIPE, text=True, check=True).stdout
helped = set(re.findall(r"(?<![\w-])(--?[a-zA-Z][\w-]*)", said.partition("Options:")[2]))
# In mdoc, "Fl f" is -f and "Fl \-force" is --force; each option is the tag of a list.
page = (root / "src/fleecefs.1").read_text()
tags = "\n".join(line for line in page.splitlines() if line.startswith(".It Fl"))
described = {"-" + name.replace("\\-", "-") for name in re.findall(r"\bFl (\S+)", tags)}
faults += [f"{o}: in --help, not in fleecefs(1)" for o in sorted(helped - described)]
faults += [f"{o}: in fleecefs(1), not in --help" for o in sorted(described - helped)]
faults += [f"--help: more than 80 columns: {line}" for line in said.splitlines() if len(line) > 80]
if said.count("\n") > 50:
    faults.append(f"--help: {said.count(chr(10))} lines are no one screen")

for path in pages:
    if shutil.which("mandoc"):
        lint = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", path],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
        faults += lint.splitlines()
    elif shutil.which("man"):
        lint = subprocess.run(["man", "--warnings", "-l", path], stdout=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True).stderr
        faults += [f"{path.name}: {line}" for line in lint.splitlines()]

print(*faults, sep="\n")
sys.exit(1 if faults else 0)
