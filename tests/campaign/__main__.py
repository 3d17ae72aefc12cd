"""Kill processes of real jobs at random moments, resume, and compare what comes of it.

    python -m tests.campaign --kills 500 --minutes 60 --seed 1 --out kills.json

Generation, evaluation, a database build, exports and a training run over small worlds: without
Ray the driver is killed, on a local Ray also heads, retrievers, extractors, encoders and Ray's
own processes. The same command is run again until it is complete, and the result is compared
with that of an undisturbed run, byte by byte. Exits with status 1 when anything was lost,
doubled, half written, left running, or told by a traceback. Ctrl-C keeps what was found.
"""

from __future__ import annotations

import argparse
import os

# One thread each: what is killed shares few cores with others. Read when torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import random
import signal
import sys
from pathlib import Path

from benchmarks.page import rows_table
from benchmarks.recorder import Recorder
from tests.campaign.campaign import run_campaign, workshop
from tests.campaign.record import FAULTS, SILENCE_S, Campaign

TITLE = "Killed at random moments"
ABOUT = (
    "Processes of real jobs are killed with SIGKILL at random moments, and the same command is "
    "run again until it is complete. Lost, doubled, stray and half-written files are counted "
    "against an undisturbed run, byte by byte."
)


def main() -> int:
    """Run a campaign from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=500, help="kills wanted (%(default)s)")
    parser.add_argument("--minutes", type=float, default=60, help="longest time (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all chance (%(default)s)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="JSON, written after every kill")
    parser.add_argument(
        "--more", action="store_true", help="go on with the campaign that --out holds"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="record of a benchmark, with a page beside it"
    )
    parser.add_argument("--flow", default="", help="names of flows, or their first words, by comma")
    parser.add_argument("--victim", default="", help="driver, gcs, raylet or classes, by comma")
    parser.add_argument("--address", choices=["none", "local", "both"], default="both")
    parser.add_argument(
        "--ray", type=float, default=0.15, help="share of rounds on Ray, where both (%(default)s)"
    )
    parser.add_argument(
        "--commands",
        type=float,
        default=0.15,
        help="share of the runs without Ray that are programs of their own; the others are copies "
        "of one that has everything imported (%(default)s)",
    )
    args = parser.parse_args()
    # A shell's background processes ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if args.more and args.out is None:
        parser.error("--more needs --out")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    rng = random.Random(args.seed)
    wanted = [name.strip() for name in args.flow.split(",") if name.strip()]
    victims = [name.strip() for name in args.victim.split(",") if name.strip()]
    with workshop(rng, args.commands, victims) as made:
        flows = [
            flow
            for flow in made.flows.values()
            if not wanted or any(flow.name.startswith(name) for name in wanted)
        ]
        here = [(flow.name, "none") for flow in flows if made.can_disturb(flow, "none")]
        on_ray = [(flow.name, "local") for flow in flows if made.can_disturb(flow, "local")]
        work = {"none": here, "local": on_ray}.get(args.address)
        if work is None:
            work = _mixed(here, on_ray, args.ray)
        if not work:
            parser.error("no flow has such a victim there")
        settings = {
            name: str(value) for name, value in vars(args).items() if name not in ("out", "more")
        }
        campaign = Campaign.of(settings, args.out if args.more else None)
        run_campaign(made, campaign, work, rng, args.kills, args.minutes * 60, args.out)
    rows = campaign.rows()
    if args.json is not None:
        Recorder("tests.campaign", TITLE, ABOUT, args.json).add("kills", rows, campaign.settings)
    else:
        print("\n".join(rows_table(rows)))
    for found in campaign.rounds:
        if any(getattr(found, name) for name in FAULTS) or found.silence_s > SILENCE_S:
            print(f"\n{found.flow}, {found.address}, round {found.number}:")
            print("\n".join(f"  {note}" for note in found.notes))
    print(f"\n{campaign.kills} kills, {campaign.faults} faults, {campaign.seconds:.0f} s")
    return 1 if campaign.faults else 0


def _mixed(
    here: list[tuple[str, str]], on_ray: list[tuple[str, str]], share: float
) -> list[tuple[str, str]]:
    """Repeat the work so that a share of all draws is on Ray."""
    if not here or not on_ray or not 0 < share < 1:
        return here if share <= 0 else on_ray or here
    times = max(1, round(share * len(here) * 10 / ((1 - share) * len(on_ray))))
    return here * 10 + on_ray * times


if __name__ == "__main__":
    sys.exit(main())
