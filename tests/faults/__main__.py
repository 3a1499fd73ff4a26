"""Inject faults and print how each kind ended, as the table of docs/reliability.md.

python -m tests.faults --times 3 --only "downloads" --seed 7
"""

import argparse
import random
import statistics
import tempfile
import time
import traceback
from pathlib import Path

from tests import faults
from tests.faults import Kind, NotHere, Outcome

HEAD = "| kind | times | ended | lost | seconds to recover |\n|---|---|---|---|---|"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=1, help="how often each kind is injected")
    parser.add_argument("--only", default="", help="kinds whose `group: name` contains this")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    options = parser.parse_args()
    print(f"seed {options.seed}\n\n{HEAD}")
    failed = 0
    for name, kind in faults.catalogue().items():
        if options.only in name:
            failed += not tell(name, kind, options.times, options.seed)
    raise SystemExit(f"{failed} kinds did not end as promised" if failed else 0)


def tell(name: str, kind: Kind, times: int, seed: int) -> bool:
    """Inject `kind`, print its row, and say whether all that must hold did."""
    outcomes: list[Outcome] = []
    try:
        for number in range(times):
            with tempfile.TemporaryDirectory() as folder:
                draws = random.Random(f"{seed} {name} {number}")
                outcomes.append(kind.inject(Path(folder), draws))
    except NotHere as reason:
        print(f"| {name} | 0 | not injected: {reason} | | |", flush=True)
        return True
    except Exception as error:
        traceback.print_exc()
        print(f"| {name} | {len(outcomes) + 1} | **{type(error).__name__}** | ? | |", flush=True)
        return False
    ended, lost = ("; ".join(sorted({o[i] for o in outcomes})) for i in (0, 1))
    median = statistics.median(outcome.seconds for outcome in outcomes)
    print(f"| {name} | {times} | {ended} | {lost} | {median:.2f} |", flush=True)
    return True


if __name__ == "__main__":
    main()
