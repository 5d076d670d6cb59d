# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command lines of the scripts."""
import argparse

from .text import printable


class Parser(argparse.ArgumentParser):
    """A parser whose messages have no control characters of the user's words."""

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
