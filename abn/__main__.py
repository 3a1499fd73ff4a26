"""`python -m abn VERB`: the console command where it is not on PATH."""

import sys

from abn.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
