# SPDX-License-Identifier: LGPL-2.1-or-later
"""Removes generations that no retention rule keeps."""
from . import keep
from .commands import interruptible, log, tell
from .tools import TOOLS


def prune(vm, args):
    """Removes, or with --dry-run lists, the generations of a VM that --keep does not keep. Returns
    those removed."""
    tool = TOOLS[args.tool](args.destination, vm.file)
    say, would = (log, "would be ") if args.dry_run else (tell, "")
    with tool.locked():
        if not args.dry_run:
            tool.finish()
        remove, left = keep.split(tool.inventory(), args.keep)
        for name in left:
            say(f"{vm.name}: {name} is ignored and kept: it cannot be restored, or is of an older "
                "version")
        for name in tool.folding(set(remove)):
            say(f"{vm.name}: {name}: {would}merged with the removed generations that it needs")
        if not args.dry_run:
            with interruptible():
                tool.fold(set(remove))
        for name in remove:
            say(f"{vm.name}: {name}: {would}removed")
        if remove and not args.dry_run:
            tool.discard(*remove)
    return [] if args.dry_run else remove


def reclaim(args):
    """Frees the space of removed generations, if the tool does that separately."""
    TOOLS[args.tool](args.destination, "").reclaim()
