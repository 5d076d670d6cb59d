# SPDX-License-Identifier: LGPL-2.1-or-later
"""Which generations to keep: `last=3,daily=7`, counted as restic and borg count.

Of the N newest days (hours, weeks...) in which there is a generation at all the last one is kept; all
rules are counted on their own, and what any of them keeps is kept. What others need is kept with them,
unless they can be rewritten without it.
"""
import datetime
import re
from typing import NamedTuple

# What two generations have in common that count as one, in local time.
PERIODS = {"last": None, "hourly": "%Y%m%d%H", "daily": "%Y%m%d", "weekly": "%G%V",
           "monthly": "%Y%m", "yearly": "%Y"}


def parse(text):
    """A policy: {"daily": 7, ...}; ValueError if TEXT is none."""
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
    """When a generation was taken, by its name, in local time; None if the name does not tell."""
    try:
        time = datetime.datetime.strptime(name[:16], "%Y%m%dT%H%M%SZ")
    except ValueError:
        return None
    return time.replace(tzinfo=datetime.timezone.utc).astimezone()


def wanted(names, policy):
    """Those of NAMES, the newest first, that POLICY keeps."""
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
    """What is known of one: its series; the generations that it needs, None if they are not known or
    not all there; and whether it can be rewritten so that it needs only others that stay."""
    series: str
    needs: set
    foldable: bool = False


def split(generations, policy):
    """What to remove of GENERATIONS, in an order that never leaves anything without what it needs,
    and what is left alone: it counts for no rule, for it cannot be restored, or nobody knows.

    GENERATIONS: the newest first, name to Generation.
    """
    whole = {n: g for n, g in generations.items() if g.needs is not None}
    keep = wanted(list(whole), policy)
    # What the next backup of a series goes on with.
    keep |= set({generations[n].series: n for n in reversed(whole)}.values())
    keep |= {need for name in keep if not whole[name].foldable for need in whole[name].needs}
    return [n for n in whole if n not in keep], [n for n in generations if n not in whole]
