# SPDX-License-Identifier: LGPL-2.1-or-later
"""What fleecefs-backup and fleecefs-restore share."""
