# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command lines of the scripts."""
import argparse
import os
import sys

from .text import printable


def say(text):
    """Prints a line, or ends the program if nothing can be written: a reader that has closed its end of a
    pipe has enough."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os._exit(1)
    except OSError as error:
        print(f"{os.path.basename(sys.argv[0])}: stdout: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(1)


class Parser(argparse.ArgumentParser):
    """A parser whose messages have no control characters of the user's words."""

    def print_help(self, file=None):
        say(self.format_help().rstrip("\n"))

    def error(self, message):
        super().error(printable(message))

    def expand(self, words, files=()):
        """Replaces each @FILE by the words in FILE, one per line; argparse's own would show exceptions.
        FILES: those that are being read."""
        expanded = []
        for word in words:
            if not word.startswith("@"):
                expanded.append(word)
                continue
            try:
                with open(word[1:], encoding="utf-8", errors="surrogateescape") as f:
                    lines = f.read().splitlines()
            except OSError as error:
                self.error(f"{word}: {error.strerror}")
            if word in files:
                self.error(f"{word}: the file names itself")
            expanded += self.expand(lines, (*files, word))
        return expanded
