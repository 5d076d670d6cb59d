# SPDX-License-Identifier: LGPL-2.1-or-later
"""The tools that save; each instance manages the generations of one VM at one destination."""
from .folders import Files, Raw, Tar
from .repositories import Borg, Restic
from .rsync import Rsync

TOOLS = {"rsync": Rsync, "qcow2": Files, "raw": Raw, "tar": Tar, "restic": Restic, "borg": Borg}
