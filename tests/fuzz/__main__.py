"""Fuzz one target and print how much held; exit 1 with the seed of the first example that did not.

python -m tests.fuzz images --count 100000 --seed 7
"""

import argparse
import tempfile
import time
import traceback
from pathlib import Path

from tests import fuzz

EVERY = 10.0  # seconds between two lines of progress


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target", choices=fuzz.targets())
    parser.add_argument("--count", type=int, default=100_000, help="how many examples")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32, help="of the first")
    options = parser.parse_args()
    print(f"{options.target}: seeds from {options.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        seeds = range(options.seed, options.seed + options.count)
        try:
            seconds, slowest = tell(options.target, seeds, Path(folder))
        except fuzz.Failure as failure:
            traceback.print_exception(failure.__cause__)
            raise SystemExit(str(failure)) from None
    rate = options.count / seconds
    print(f"{options.count} held, {rate:.0f} a second, the slowest took {slowest:.2f} s")


def tell(target: str, seeds: range, folder: Path) -> tuple[float, float]:
    """Run all, with a line now and then; the seconds of all and of the slowest."""
    start = before = told = time.monotonic()
    slowest = 0.0
    for seed in fuzz.run(target, seeds, folder):
        now = time.monotonic()
        slowest, before = max(slowest, now - before), now
        if now - told > EVERY:
            told, done = now, seed - seeds[0] + 1
            print(f"{done} of {len(seeds)}, {done / (now - start):.0f} a second", flush=True)
    return time.monotonic() - start, slowest


if __name__ == "__main__":
    main()
