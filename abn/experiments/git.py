"""What git says of this clone."""

import subprocess


def output(*words: str) -> str | None:
    """What `git` prints for `words`; None where it refuses, or is not there.

    A name or a message that is not UTF-8 has marks in the place of what cannot be read.
    """
    try:
        done = subprocess.run(
            ["git", *words], capture_output=True, encoding="utf-8", errors="surrogateescape"
        )
    except OSError:
        return None
    return done.stdout if done.returncode == 0 else None
