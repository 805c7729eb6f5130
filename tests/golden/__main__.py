"""`python -m tests.golden --write` makes the stored record anew; `python -m tests.golden --base COMMIT`
compares with a commit.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from . import record, steps, trees


def main() -> None:
    """Do one of both; exit 1 where the trees differ."""
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--write", action="store_true", help="run the commands and make their record the stored one"
    )
    what.add_argument(
        "--base",
        metavar="COMMIT",
        help="run the commands on this commit and on the working tree, and compare bytes",
    )
    asked = parser.parse_args()
    if asked.write:
        write()
    else:
        found = trees.differences(asked.base)
        sys.stdout.write("".join(f"{line}\n" for line in found) or f"every byte is that of {asked.base}\n")
        sys.exit(1 if found else 0)


def write() -> None:
    """Make the stored record anew, from the working tree."""
    data = steps.real_data()
    if data is None:
        sys.exit("the record holds runs on the real data; set BIASSCOPE_TEST_DATA to its folder")
    with tempfile.TemporaryDirectory(prefix="golden-") as work:
        folder = steps.prepare(Path(work) / "runs")
        steps.perform(folder, steps.inside(folder), data)
        text = "\n".join(record.written(record.observed(folder, data)))
    record.STORED.write_text(text + "\n", encoding="utf-8")
    sys.stderr.write(f"{record.STORED}: {len(text) / 1000:.0f} kB; look at its diff before it goes in\n")


main()
