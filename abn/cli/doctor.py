"""What killed processes leave behind in a clone of this project, and the command that mends it.

`python -m abn.cli.doctor` says what it finds, a line each; with --fix it also runs the commands
that can do no harm. Exit code 0: all is well, or mended; 1: something is left for a person.
"""

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from abn.doctor import dvc_experiments, processes, working_tree
from abn.doctor.working_tree import Finding


def main() -> int:
    """Print what is amiss, mend it where that is asked for and safe; give the exit code."""
    if busy := processes.at_work(Path.cwd()):
        print(f"at work here: {', '.join(busy)}; what is half done is theirs, nothing is mended")
        return 0
    left = [finding for finding in findings() if not settled(finding, "--fix" in sys.argv[1:])]
    for line in (*working_tree.unfinished(), *dvc_experiments.stashed()):
        print(line)
    return int(bool(left))


def findings() -> Iterator[Finding]:
    """All that is amiss; a later check sees what mending the findings before has changed."""
    for look in (
        working_tree.dvc_lock,
        working_tree.tables,
        working_tree.git_locks,
        working_tree.stage_locks,
        working_tree.parts,
        dvc_experiments.detached_head,
        dvc_experiments.tasks,
        dvc_experiments.folders,
    ):
        yield from look()


def settled(finding: Finding, fix: bool) -> bool:
    """Say what was found, run its command if it may be run; whether it is mended now."""
    mended = fix and finding.safe and _succeeds(finding.command)
    words = "mended by" if mended else "to mend it:" if finding.safe or not fix else "by hand:"
    print(f"{finding.where}: {finding.what}; {words} {shlex.join(finding.command)}")
    return mended


def _succeeds(command: list[str]) -> bool:
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        print(done.stderr.strip(), file=sys.stderr)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
