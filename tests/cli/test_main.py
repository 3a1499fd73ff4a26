"""`abn VERB`: how verbs are found, where they run, and how they fail."""

import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

from abn import cli
from abn.cli.main import main, verbs
from abn.version import __version__

GREET = """
from pathlib import Path
from abn.runtime.errors import DataError
HELP: str = "Say where it runs."
{more}
def configure(parser):
    parser.add_argument("--fail", choices=("user", "ctrl-c", "name"))

def run(options):
    if options.fail == "user":
        raise DataError("no such image", "cat.png", "check the path")
    if options.fail == "name":
        Path("x" * 300).exists()
    if options.fail:
        raise KeyboardInterrupt
    print(Path.cwd())
    return 4
"""


@pytest.fixture
def greet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package folder with the verb `greet`; the test runs in an empty folder beside it."""
    folder, elsewhere = tmp_path / "verbs", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (folder / "greet.py").write_text(GREET.format(more="NEEDS_PROJECT = False"))
    (folder / "helper.py").write_text("def shared(): ...")
    monkeypatch.setattr(cli, "__path__", [*cli.__path__, str(folder)])
    monkeypatch.chdir(elsewhere)
    monkeypatch.delenv("ABN_DEBUG", raising=False)
    yield folder
    sys.modules.pop("abn.cli.greet", None)


def test_a_file_with_a_line_of_help_is_a_verb_and_other_files_are_none(greet: Path) -> None:
    assert verbs()["greet"] == "Say where it runs."
    assert not {"helper", "main"} & verbs().keys()


@pytest.mark.parametrize("name", verbs())
def test_every_verb_has_one_line_of_help_and_the_two_functions(name: str) -> None:
    module = importlib.import_module(f"abn.cli.{name}")
    assert verbs()[name] == module.HELP == module.HELP.strip()
    assert "\n" not in module.HELP
    assert list(inspect.signature(module.configure).parameters) == ["parser"]
    assert list(inspect.signature(module.run).parameters) == ["options"]


def test_help_lists_the_verbs_and_imports_neither_them_nor_torch(
    greet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert "greet" in capsys.readouterr().out
    assert "abn.cli.greet" not in sys.modules
    code = "import sys, abn.cli.main; print({'torch', 'numpy', 'pandas'} & sys.modules.keys())"
    root = Path(cli.__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert run.stdout == "set()\n"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"abn {__version__}\n"


@pytest.mark.parametrize("words", [[], ["gret"], ["greet", "--loud"], ["--loud", "greet"]])
def test_no_verb_and_unknown_verbs_and_flags_are_refused(greet: Path, words: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)


def test_an_error_is_one_line_with_its_exit_code(
    greet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (main(["greet"]), main(["greet", "--fail", "ctrl-c"])) == (4, 130)
    assert main(["greet", "--fail", "user"]) == 3
    assert capsys.readouterr().err == "error[DATA] no such image; cat.png; check the path\n"


def test_an_error_of_the_disk_that_no_verb_foresaw_is_one_line(
    greet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["greet", "--fail", "name"]) == 5
    line = capsys.readouterr().err
    assert line.startswith("error[DISK] File name too long; xxx") and line.count("\n") == 1


def test_a_verb_for_projects_runs_at_the_root_from_any_folder_of_it(
    greet: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (greet / "greet.py").write_text(GREET.format(more=""))
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "params.yaml").touch()
    deep = tmp_path / "notes" / "today"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    main(["greet"])
    assert capsys.readouterr().out == f"{tmp_path}\n"


def test_outside_a_project_such_a_verb_is_refused_in_one_line(
    greet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (greet / "greet.py").write_text(GREET.format(more=""))
    assert main(["greet"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error[SETUP] not in a project")
    assert error.count("\n") == 1


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    greet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (greet / "greet.py").write_text(GREET.format(more="import a_package_of_an_extra"))
    assert main(["greet"]) == 1
    assert capsys.readouterr().err == (
        "error[SETUP] the package a_package_of_an_extra is missing; abn greet; "
        "pip install 'attention-branch-network[pipeline]'\n"
    )


@pytest.mark.parametrize(
    ("package", "extra"),
    [("onnxruntime", "onnx"), ("huggingface_hub", "hub"), ("uvicorn", "serve")],
)
def test_a_package_that_a_verb_misses_only_while_it_runs_is_named_with_its_extra(
    package: str,
    extra: str,
    greet: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    text = GREET.format(more="NEEDS_PROJECT = False")
    (greet / "greet.py").write_text(text.replace("print(", f"import {package}; print("))
    assert main(["greet"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error[SETUP] the package {package} is missing; abn greet; ")
    assert error.endswith(f"pip install 'attention-branch-network[{extra}]'\n")


def test_a_reader_that_stops_early_causes_no_traceback(greet: Path) -> None:
    (greet / "greet.py").write_text(
        'HELP = "Count."\nNEEDS_PROJECT = False\ndef configure(parser): ...\n'
        "def run(options):\n    for i in range(100000): print(i)\n    return 0\n"
    )
    code = f"import sys; from abn import cli; cli.__path__.append({str(greet)!r}); "
    code += "from abn.cli.main import main; sys.exit(main(['greet']))"
    root = Path(cli.__file__).parents[2]
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None and run.stderr is not None
        assert run.stdout.readline() == "0\n"
        run.stdout.close()
        assert run.wait() == 141
        assert run.stderr.read() == ""
