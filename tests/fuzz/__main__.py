"""Fuzz the readers for as long as wanted: ``python -m tests.fuzz --seconds 3600 --out FOLDER``."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

from tests.fuzz.campaign import run_campaign
from tests.fuzz.target import all_targets


def main() -> int:
    """Run a campaign and print its report; the exit status is 1 with findings."""
    targets = all_targets()
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for all targets together")
    parser.add_argument("--target", action="append", choices=list(targets), help="of some only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--out", type=Path, required=True, help="folder for report and inputs")
    arguments = parser.parse_args()
    chosen = [targets[name] for name in arguments.target or targets]
    report = run_campaign(
        chosen, arguments.seconds / len(chosen), arguments.out, arguments.seed, arguments.first
    )
    (arguments.out / "report.json").write_text(json.dumps(dataclasses.asdict(report), indent=2))
    print(report.describe())
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
