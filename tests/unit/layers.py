#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""A file includes headers of its own layer and of lower ones, by their path below include/, or
private ones that lie beside it.

usage: layers.py SOURCE-ROOT
"""
import re
import sys
from pathlib import Path

LAYERS = ['util', 'map', 'view', 'qemu', 'disk', 'mount', 'backup']
TOP = {'src/main.c', 'src/options.c', 'src/options.h', 'include/options.h'}
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.M)


def reason(file, path, header, headers):
    """Why PATH may not include HEADER, or None."""
    if header == 'config.h' or path in TOP:
        return None
    if '/' not in header and (file.parent / header).is_file() and path.startswith('src/'):
        return None
    if header not in headers:
        return 'is neither below include/ nor beside the file'
    layer, included = path.split('/')[1], header.split('/')[0]
    if layer not in LAYERS:
        return f'{path} is in no layer'
    if included not in LAYERS or LAYERS.index(included) > LAYERS.index(layer):
        return f'is above {layer}'
    return None


def main():
    root = Path(sys.argv[1])
    headers = {str(p.relative_to(root / 'include')) for p in root.glob('include/**/*.h')}
    files = sorted(p for d in ('src', 'include') for p in root.glob(f'{d}/**/*.[ch]'))
    bad = 0
    for file in files:
        path = str(file.relative_to(root))
        for header in INCLUDE.findall(file.read_text()):
            why = reason(file, path, header, headers)
            if why:
                print(f'{path}: "{header}" {why}', file=sys.stderr)
                bad += 1
    if not files:
        sys.exit(f'no sources below {root}')
    sys.exit(1 if bad else 0)


if __name__ == '__main__':
    main()
