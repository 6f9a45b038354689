"""Runs every case of files in the shared format; a line a variant, the totals last; exit 1 on any mismatch."""

from __future__ import annotations

import argparse
import collections
import json
import sys
from collections.abc import Iterator
from typing import Any

from tests.conformance.cases import mismatches, opened, size_differs


def read(path: str) -> Iterator[dict[str, Any]]:
    """The cases of a file; exits with one line when it cannot be read."""
    number = 0
    try:
        with opened(path) as stream:
            for line in stream:
                number += 1
                yield json.loads(line)
    except (OSError, EOFError, ValueError) as error:
        sys.exit(f"{path}: line {number}: cannot be read ({error})")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("files", nargs="+", metavar="FILE.jsonl[.gz|.xz]")
    parser.add_argument("--compiled", action="store_true", help="the rules compiled by numba")
    parser.add_argument("--show", type=int, default=5, metavar="N", help="mismatches to show (default: %(default)s)")
    arguments = parser.parse_args()
    tally: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0, 0])
    shown = 0
    sizes = [0, 0]
    for path in arguments.files:
        for case in read(path):
            if "expected_gb" in case:
                sizes[0], sizes[1] = sizes[0] + 1, sizes[1] + size_differs(case)
                continue
            calls, state = mismatches(case, compiled_form=arguments.compiled)
            counts = tally[case["variant"]]
            counts[0], counts[1], counts[2] = counts[0] + 1, counts[1] + bool(calls), counts[2] + bool(state)
            if (calls or state) and shown < arguments.show:
                shown += 1
                print(f"{case['id']}: {'; '.join(calls + state)}")
    if sizes[0]:
        print(f"datasize: cases={sizes[0]} mismatches={sizes[1]}")
    if not tally:
        return 1 if sizes[1] or not sizes[0] else 0
    for variant, (cases, calls, state) in sorted(tally.items()):
        print(f"{variant}: cases={cases} call_mismatches={calls} state_mismatches={state}")
    total = [sum(column) for column in zip(*tally.values(), strict=True)]
    print(f"cases={total[0]} call_mismatches={total[1]} state_mismatches={total[2]}")
    return 1 if total[1] or total[2] or sizes[1] else 0


if __name__ == "__main__":
    sys.exit(main())
