#!/usr/bin/env python3
"""Give broken and hostile files to what reads them, and print what doesn't end in an error of graphsurgery's own.

    scripts/fuzz_files.py --minutes 10                    every format, sharing the time
    scripts/fuzz_files.py manifest --cases 100000         one format, so many cases
    scripts/fuzz_files.py manifest --seed 17              one case again, with the file that it makes

A case takes one of the right files of a format and changes it: a value for one of another kind or size, a key, a branch
of the tree, or a few bytes. It is at fault when it raises anything but a GraphSurgeryError, takes more than 10 s or 500
MB (1 GB for an image), ends the process, or changes a file. Exit 1 when one is.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from fuzz_formats import FORMATS, content_of, opened
from fuzz_harness import Limits, explore

SHOWN = 3  # kinds of faults of one format that are printed in full


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("formats", nargs="*", metavar="FORMAT", help=f"all if not given: {', '.join(FORMATS)}")
    parser.add_argument("--minutes", type=float, help="of all formats together; 1 if neither this nor --cases is given")
    parser.add_argument("--cases", type=int, help="of each format")
    parser.add_argument("--seed", type=int, help="try this case alone and show its file")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    options = parser.parse_args()
    names = options.formats or list(FORMATS)
    if unknown := [name for name in names if name not in FORMATS]:
        parser.error(f"there is no format {unknown[0]}; there are {', '.join(FORMATS)}")
    minutes = options.minutes or (1.0 if options.cases is None and options.seed is None else 1e6)
    print(f"{'format':12}{'cases':>10}{'read':>10}{'at fault':>10}{'cases/s':>10}")
    failed = 0
    for name in names:
        first, cases, seconds = options.first, options.cases or sys.maxsize - options.first, 60 * minutes / len(names)
        if options.seed is not None:
            first, cases, seconds = options.seed, 1, 1e6
            with tempfile.TemporaryDirectory() as folder:
                print(content_of(FORMATS[name], FORMATS[name].make(Path(folder)), name, options.seed)[:5000])
        limits = Limits(megabytes=FORMATS[name].megabytes)
        tally = explore(functools.partial(opened, name), ["read"], first, cases, seconds, limits)
        faults = sum(map(len, tally.faults.values()))
        rate = tally.cases / tally.seconds
        print(f"{name:12}{tally.cases:10}{tally.well['read']:10}{faults:10}{rate:10.0f}", flush=True)
        failed += faults
        for kind, seeds in list(tally.faults.items())[:SHOWN]:
            print(f"--- {len(seeds)}: {kind}; again: scripts/fuzz_files.py {name} --seed {seeds[0]}")
            print(f"{tally.stories[kind]}\n", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
