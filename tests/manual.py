#!/usr/bin/env python3
"""Compares manual pages with --help, and checks how they render."""
import os
import pathlib
import re
import shutil
import subprocess
import sys

root, program, changed = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3:]
pages = sorted([*root.glob("src/*.[15]"), *root.glob("contrib/*.[15]")])
faults = []

def compare(page, *programs):
    """Compares the options in --help of PROGRAMS with those in PAGE, both ways."""
    helped = set()
    for command in programs:
        said = subprocess.run([command, "--help"], stdout=subprocess.PIPE, text=True, check=True,
                              env={**os.environ, "COLUMNS": "80"}).stdout
        name = os.path.basename(command)
        helped |= set(re.findall(r"(?<![\w-])(--?[a-zA-Z0][\w-]*)",
                                 re.split("(?mi)^options:$", said)[-1]))
        faults.extend(f"{name} --help: more than 80 columns: {line}" for line in said.splitlines()
                      if len(line) > 80)
        if said.count("\n") > 60:
            faults.append(f"{name} --help: {said.count(chr(10))} lines, more than 60")
    # In mdoc, "Fl f" is -f and "Fl \-force" is --force; each option is the tag of a list.
    tags = "\n".join(x for x in (root / page).read_text().splitlines() if x.startswith(".It Fl"))
    described = {"-" + name.replace("\\-", "-") for name in re.findall(r"\bFl (\S+)", tags)}
    faults.extend(f"{o}: in --help, not in {page}" for o in sorted(helped - described))
    faults.extend(f"{o}: in {page}, not in --help" for o in sorted(described - helped))


compare("src/fleecefs.1", program)
if changed:
    compare("src/fleecefs-changed.1", *changed)
compare("contrib/fleecefs-backup.1",
        *(root / f"contrib/fleecefs-{n}" for n in ("backup", "restore", "map")))

# Documents in the source tree may name only existing files.
for text in ("README.md", "src/README.md", "contrib/HACKING.md", "contrib/SECURITY.md",
             "tests/bench/README.md"):
    said, folder = (root / text).read_text(), (root / text).parent
    names = re.findall(r"\]\(([^):#]+)", said)
    names += re.findall(r"`((?:[\w-]+/)+[\w-]+\.(?:c|h|py|md|build))`", said)
    faults.extend(f"{text}: there is no {name}" for name in names
                  if not any((base / name).exists() for base in
                             (folder, root, root / "src", root / "include", root / "src/snapshot")))
    faults.extend(f"{text}:{i + 1}: longer than 110 columns"
                  for i, line in enumerate(said.splitlines()) if len(line) > 110 and "|" not in line)

# Renders on a terminal of 80 columns with groff (as man-db does) and mandoc.
RENDERERS = (["groff", "-mandoc", "-Tutf8", "-ww", "-rLL=78n", "-P-c"],
             ["mandoc", "-T", "utf8", "-O", "width=78"])
for path in pages:
    for command in RENDERERS:
        if not shutil.which(command[0]):
            continue
        done = subprocess.run([*command, path], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True)
        faults += [f"{command[0]}: {line}" for line in done.stderr.splitlines()]
        # Removes overstriking, which marks bold and underlined text.
        lines = re.sub("\x1b\\[[0-9;]*m|.\b", "", done.stdout).splitlines()
        faults += [f"{path.name} by {command[0]}: more than 80 columns: {line.strip()}"
                   for line in lines if len(line) > 80]
        # The In of a heading "In pieces" is a macro: it makes "<pieces>".
        faults += [f"{path.name} by {command[0]}: a macro in a heading: {line.strip()}"
                   for line in lines if re.match(" {0,3}<", line)]

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
