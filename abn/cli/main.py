"""The console command: `abn VERB`.

A verb is a module of this package with a line `HELP = "..."`, `configure(parser)` and
`run(options)`, which returns the exit code. It runs at the project's root, which is searched from
the working folder upwards, unless the module says `NEEDS_PROJECT = False`. Only the verb that runs
is imported, so `abn --help` is fast.
"""

import argparse
import importlib
import io
import os
import pkgutil
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from abn import cli
from abn.runtime import env
from abn.runtime.errors import UserError
from abn.version import __version__

EXTRAS = {"serve": "serve"}  # what a verb needs installed where that is not all of the pipeline
INTERRUPTED, PIPE_CLOSED = 130, 141  # exit codes, as shells have them


class SetupError(UserError):
    """The command cannot run here: not in a project, or a package is missing."""

    kind = "SETUP"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the verb that `arguments` (by default the command line) name; return the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name may have what a terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        if arguments is None:
            env.ensure_utf8()
        return _run(sys.argv[1:] if arguments is None else list(arguments))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing left to flush to
        return PIPE_CLOSED
    except UserError as error:
        if os.environ.get("ABN_DEBUG"):
            raise
        print(error.line(), file=sys.stderr)
        return error.exit_code


def verbs() -> dict[str, str]:
    """The name of every verb and its line of help, read from the files without importing them."""
    lines = {}
    for folder in cli.__path__:
        for _, name, _ in pkgutil.iter_modules([folder]):
            text = Path(folder, f"{name}.py").read_text(encoding="utf-8")
            if match := re.search(r'^HELP\b.* = "(.+)"$', text, re.MULTILINE):
                lines[name] = match[1]
    return dict(sorted(lines.items()))


def project_root(start: Path) -> Path:
    """The nearest folder from `start` upwards with dvc.yaml and params.yaml; SetupError if none."""
    for folder in (start, *start.parents):
        if (folder / "dvc.yaml").is_file() and (folder / "params.yaml").is_file():
            return folder
    what = "not in a project: no folder from here upwards has dvc.yaml and params.yaml"
    raise SetupError(what, start, "change to your clone of the project and run it there")


def _run(arguments: list[str]) -> int:
    chosen = next((word for word in arguments if not word.startswith("-")), "")
    parser = argparse.ArgumentParser(prog="abn", description="Attention Branch Networks.")
    parser.add_argument("--version", action="version", version=f"abn {__version__}")
    subparsers = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name, line in verbs().items():
        verb = subparsers.add_parser(name, help=line, description=line)
        if name == chosen:
            module = _import(name)
            module.configure(verb)
    options = parser.parse_args(arguments)  # which refuses an unknown verb
    if getattr(module, "NEEDS_PROJECT", True):
        os.chdir(project_root(Path.cwd()))
    code = int(module.run(options))
    sys.stdout.flush()  # here, where a closed pipe is handled
    return code


def _import(verb: str) -> ModuleType:
    """The module of `verb`; SetupError where a package of an extra is not installed."""
    try:
        return importlib.import_module(f"abn.cli.{verb}")
    except ModuleNotFoundError as error:
        if not error.name or error.name.partition(".")[0] in ("abn", "stages"):
            raise
        remedy = f"pip install 'attention-branch-network[{EXTRAS.get(verb, 'pipeline')}]'"
        raise SetupError(f"the package {error.name} is missing", f"abn {verb}", remedy) from None
