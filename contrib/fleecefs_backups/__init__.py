# SPDX-License-Identifier: LGPL-2.1-or-later
"""Code shared by fleecefs-backup and fleecefs-restore."""
