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
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from abn import cli
from abn.runtime import env
from abn.runtime.errors import DiskError, UserError
from abn.version import __version__

INTERRUPTED, PIPE_CLOSED = 130, 141  # exit codes, as shells have them
EXTRAS = {  # which extra installs a package; every other is of `pipeline`
    **dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "onnx"),
    "huggingface_hub": "hub",
    **dict.fromkeys(("fastapi", "uvicorn"), "serve"),
}


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
    except (UserError, OSError) as error:
        if os.environ.get("ABN_DEBUG"):
            raise
        known = error if isinstance(error, UserError) else _of_the_disk(error)
        print(known.line(), file=sys.stderr)
        return known.exit_code


def _of_the_disk(error: OSError) -> DiskError:
    """What a verb did not foresee, such as a name that is too long."""
    where = error.filename if error.filename is not None else "the working folder"
    remedy = "check that name, its permissions and the room there; ABN_DEBUG=1 shows more"
    return DiskError(error.strerror or str(error) or type(error).__name__, where, remedy)


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
    with _extras_named(chosen):  # a verb may import one only where it needs it
        code = int(module.run(options))
    sys.stdout.flush()  # here, where a closed pipe is handled
    return code


def _import(verb: str) -> ModuleType:
    with _extras_named(verb):
        return importlib.import_module(f"abn.cli.{verb}")


@contextmanager
def _extras_named(verb: str) -> Iterator[None]:
    """SetupError where a package of an extra is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "abn").partition(".")[0]
        if package in ("abn", "stages"):
            raise
        remedy = f"pip install 'attention-branch-network[{EXTRAS.get(package, 'pipeline')}]'"
        raise SetupError(f"the package {error.name} is missing", f"abn {verb}", remedy) from None
