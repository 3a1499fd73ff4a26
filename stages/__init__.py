"""The five stages of the DVC graph, one script each.

`python -m stages.NAME` imports this file first.
"""

import sys

from abn.project import stage

if sys.argv[0] == "-m":  # as Python has it while it looks for the script
    stage.begin()
