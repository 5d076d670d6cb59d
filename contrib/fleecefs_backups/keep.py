# SPDX-License-Identifier: LGPL-2.1-or-later
"""Retention: `last=3,daily=7`, counted like restic and borg.

Keeps the last generation of each of the N newest days (hours, weeks...) that have one. Rules are
evaluated independently; a generation stays if any rule keeps it. So do its dependencies, unless it
can be rewritten without them.
"""
import datetime
import re
from typing import NamedTuple

# Generations for which this gives the same result count as one; in local time.
PERIODS = {"last": None, "hourly": "%Y%m%d%H", "daily": "%Y%m%d", "weekly": "%G%V",
           "monthly": "%Y%m", "yearly": "%Y"}


def parse(text):
    """Returns a policy: {"daily": 7, ...}; raises ValueError if TEXT is invalid."""
    policy = {}
    for word in text.split(","):
        name, _, number = word.partition("=")
        if name not in PERIODS or name in policy or not re.fullmatch(r"[0-9]{1,6}", number):
            raise ValueError(f"'{word}' is not one of {'=N, '.join(PERIODS)}=N")
        policy[name] = int(number)
    if not any(policy.values()):
        raise ValueError("that would keep nothing")
    return policy


def time_of(name):
    """Returns the local time of a generation from its name; None if the name has none."""
    try:
        time = datetime.datetime.strptime(name[:16], "%Y%m%dT%H%M%SZ")
    except ValueError:
        return None
    return time.replace(tzinfo=datetime.timezone.utc).astimezone()


def wanted(names, policy):
    """Returns those of NAMES (newest first) that POLICY keeps."""
    keep = set(names[:1])  # never nothing
    for period, count in policy.items():
        seen = set()
        for name in names:
            time = time_of(name)
            key = name if period == "last" or time is None else time.strftime(PERIODS[period])
            if key not in seen and len(seen) < count:
                seen.add(key)
                keep.add(name)
    return keep


class Generation(NamedTuple):
    """Its series; the generations that its intact disks need, None if they are unknown or missing;
    whether it can be rewritten to need only generations that stay; whether all its disks can be
    restored; and whether the next increment can be based on it."""
    series: str
    needs: set
    foldable: bool = False
    whole: bool = True
    is_base: bool = False


def split(generations, policy):
    """Returns the generations to remove, dependents first, and those that are ignored: they count for
    no rule, because they cannot be restored, or because that is unknown. They stay, and so does what
    their intact disks need.

    GENERATIONS: name to Generation, newest first.
    """
    whole = {n: g for n, g in generations.items() if g.whole and g.needs is not None}
    keep = wanted(list(whole), policy)
    # Of each series the newest, and the base of the next one: backups of a VM that is off are no base.
    for names in list(whole), [n for n, g in whole.items() if g.is_base]:
        keep |= set({whole[n].series: n for n in reversed(names)}.values())
    ignored = [n for n in generations if n not in whole]
    keep |= {need for name in [*keep, *ignored] if not generations[name].foldable
             for need in generations[name].needs or ()}
    return [n for n in whole if n not in keep], ignored
