"""What a run has found so far, in a file that is whole at any moment."""

import argparse
import math
import time
from typing import Any

from benchmarks import measure

SPARING = 5.0  # seconds between two savings of what only grows
Results = dict[str, Any]


class Record:
    """What the sections found, by name, in OUT/`name`.json. A killed run leaves what it had."""

    def __init__(self, options: argparse.Namespace, name: str, sparing: float = SPARING) -> None:
        self.options, self.name, self.sparing = options, name, sparing
        self.found: Results = {}
        self.saved = -math.inf

    def keep(self, section: str, found: Any, growing: bool = False) -> None:
        """`found` is all that `section` knows by now. Saved at once, a `growing` one now and then.

        `found` may be changed in place afterwards: what is on the disk is as it was when saved.
        """
        self.found[section] = found
        if not growing or time.monotonic() - self.saved >= self.sparing:
            measure.save(self.options.out, self.name, vars(self.options), self.found)
            self.saved = time.monotonic()
