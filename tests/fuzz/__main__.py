"""python -m fuzz: damaged inputs for as long as there is time; see --help."""

import argparse
import logging
import os
import secrets
import sys
from pathlib import Path

from ouroboros_lib.speed.threads import prepare


def main() -> int:
    os.environ["OMP_NUM_THREADS"] = "1"  # a process a core; before torch and numba are loaded
    prepare()
    from .formats import FORMATS
    from .running import FAULTS, campaign, replay, table

    names = [format.name for format in FORMATS]
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, help="of what is drawn; by default another one every time")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--only", default=",".join(names), help="formats, with commas between: " + ", ".join(names))
    parser.add_argument("--out", type=Path, default=Path("outputs/fuzz"), help="where findings go")
    parser.add_argument("--replay", type=Path, help="a finding's folder: read that again, and nothing else")
    given = parser.parse_args()
    logging.disable()
    if given.replay:
        kind, said = replay(FORMATS, given.replay)
        print(f"{kind}\n{said}")
        return int(kind in FAULTS)
    seed = secrets.randbelow(2**31) if given.seed is None else given.seed
    formats = [format for format in FORMATS if format.name in given.only.split(",")]
    print(f"{len(formats)} formats, {given.minutes:g} minutes, seed {seed}", flush=True)
    totals = campaign(formats, seed, given.minutes, given.processes, given.out)
    print(table(totals))
    faults = sum(counts[kind] for counts in totals.values() for kind in FAULTS)
    if faults:
        print(f"{faults} faults: one of each sort is in {given.out}, with the command that repeats it")
    return int(faults > 0)


sys.exit(main())
