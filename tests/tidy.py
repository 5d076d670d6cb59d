#!/usr/bin/env python3
"""Runs CLANG-TIDY, with the checks in .clang-tidy, on all files of src/ compiled in folder BUILD."""
import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys

tidy, build = sys.argv[1:]
src = pathlib.Path(__file__).resolve().parent.parent / "src"
files = {pathlib.Path(build, entry["file"]).resolve()
         for entry in json.loads(pathlib.Path(build, "compile_commands.json").read_text())}
files = sorted(path for path in files if path.is_relative_to(src))


def check(path):
    """Returns the findings in the file at PATH; unknown flags of other compilers do not count."""
    run = subprocess.run([tidy, "--quiet", "-p", build, "--extra-arg=-Wno-unknown-warning-option",
                          "--extra-arg=-Wno-error", path], capture_output=True, text=True)
    return f"{run.stdout}{run.stderr}" if run.returncode else ""


with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
    faults = [fault for fault in pool.map(check, files) if fault]
print(*faults, sep="\n")
if not files:
    sys.exit(f"{build} compiles nothing of {src}")
sys.exit(1 if faults else 0)
