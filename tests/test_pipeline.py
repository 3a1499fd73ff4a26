"""dvc.yaml against the code: deps are imports, params are those that a stage reads."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from abn.config import yaml_file
from abn.config.params import Data, Params

ROOT = Path(__file__).parent.parent
STAGES = yaml_file.read(ROOT / "dvc.yaml")["stages"]
DVC = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def imports(path: Path) -> set[Path]:
    """The project's own files that `path` imports, wherever in it."""
    files: set[Path] = set()
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            module = Path(*name.split("."))
            candidates = [module.with_suffix(".py"), module / "__init__.py"]
            candidates += [parent / "__init__.py" for parent in module.parents]
            files |= {file for file in candidates if (ROOT / file).is_file()}
    return files


def closure(path: Path) -> set[Path]:
    """`path`, its package, and all that they import, directly or not."""
    seen: set[Path] = set()
    waiting = {path, path.parent / "__init__.py"}
    while waiting:
        file = waiting.pop()
        seen.add(file)
        waiting |= imports(file) - seen
    return seen


def sources(dep: str) -> set[Path]:
    """The Python files that `dep` is or holds."""
    path = ROOT / dep
    files = path.rglob("*.py") if path.is_dir() else [path]
    return {file.relative_to(ROOT) for file in files if file.suffix == ".py"}


PROPERTIES = {"evaluate.view": ["evaluate.size", "evaluate.resize"]}  # what they are made of


@pytest.mark.parametrize("stage", STAGES)
def test_a_stages_code_deps_are_exactly_what_it_imports(stage):
    listed = set().union(*(sources(dep) for dep in STAGES[stage]["deps"]))
    assert listed == closure(Path("stages", f"{stage}.py"))


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_declares_every_param_it_reads(stage):
    source = Path(ROOT, "stages", f"{stage}.py").read_text()
    declared = STAGES[stage]["params"]
    for section, key in re.findall(r"\bparams\.(\w+)(?:\.(?!model_)(\w+))?", source):
        if section in Params.model_fields:
            read = f"{section}.{key}" if key else section
            for name in PROPERTIES.get(read, [read]):
                assert any(p == section or f"{p}.".startswith(f"{name}.") for p in declared), name


def test_download_declares_all_of_data_except_the_hold_out():
    keys = {f"data.{name}" for name in Data.model_fields} - {"data.holdout"}
    assert set(STAGES["download"]["params"]) == keys


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_a_module_that_replaces_the_shell(stage):
    assert STAGES[stage]["cmd"] == f"exec python -m stages.{stage}"
    assert STAGES[stage]["desc"]


def test_no_output_persists_and_only_metrics_and_plots_are_not_cached():
    """Otherwise DVC's run cache is off, and a param changed back would train again."""
    for stage in STAGES.values():
        assert all(isinstance(out, str) for out in stage.get("outs", []))
        for entry in stage.get("metrics", []) + stage.get("plots", []):
            assert isinstance(entry, str) or list(entry.values()) == [{"cache": False}]


def interpolated(value: Any) -> set[str]:
    """The keys of params.yaml that stand as `${KEY}` in a part of dvc.yaml."""
    return set(re.findall(r"\$\{([^}]*)\}", json.dumps(value)))


def test_params_are_put_into_deps_only_which_dvc_reads_but_neither_removes_nor_writes():
    graph = yaml_file.read(ROOT / "dvc.yaml")
    for stage in graph["stages"].values():
        assert not interpolated({key: stage[key] for key in stage.keys() - {"deps"}})
    assert not interpolated({key: graph[key] for key in graph.keys() - {"stages"}})
    checkpoints = {f"{stage}.checkpoint" for stage in ("evaluate", "explain", "visualize")}
    assert interpolated(graph) == {"data.root"} | checkpoints


# Runs each stage by DVC with a hostile value in its deps; prints how each ended.
HOSTILE_RUNS = """
import json, sys
from pathlib import Path
import yaml
from dvc.repo import Repo

for stage, section, key, value in json.load(sys.stdin):
    Path("params.yaml").write_text(yaml.safe_dump({section: {key: value}}))
    try:
        with Repo(".") as repo:
            repo.reproduce(stage, single_item=True, force=True)
            print("ended: well")
    except Exception as error:
        print("ended:", type(error).__name__)
"""
HOSTILE = ["../victim", "../victim/a.txt", "VICTIM", "../victim/*", "link", "link/a.txt", ".", ""]
HOSTILE += ["..", ".git", "dvc.yaml", "file://VICTIM/a.txt", "~", "mine", None, ["../victim"], 7]
HOSTILE += [{"path": "../victim", "persist": False}, "outputs", "outputs/gallery"]
HOSTILE += ["a\n- ../victim"]


def outputs_and_deps(stage: dict[str, Any]) -> dict[str, Any]:
    """`stage` without the deps that have no `${...}`; its command only makes the outputs."""
    kept = {kind: stage[kind] for kind in ("outs", "metrics", "plots") if kind in stage}
    entries = [each for kind in kept.values() for each in kind]
    paths = [each if isinstance(each, str) else next(iter(each)) for each in entries]
    command = "; ".join(f"mkdir -p $(dirname {path}) && touch {path}" for path in paths)
    return {"cmd": command, "deps": [dep for dep in stage["deps"] if "${" in dep], **kept}


def contents(*folders: Path) -> dict[str, tuple[bytes, int]]:
    """Every file, what is in it, and when it was last changed."""
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    return {str(file): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


def test_no_value_makes_dvc_remove_or_write_what_is_not_an_output(tmp_path):
    """DVC fills in the params and removes the outputs before our check of params.yaml runs."""
    project, victim = tmp_path / "project", tmp_path / "victim"
    stages = {name: stage for name, stage in STAGES.items() if interpolated(stage["deps"])}
    theirs = [victim / "a.txt", project / "mine/a.txt", project / "outputs/mine.txt"]
    for file in theirs:
        file.parent.mkdir(parents=True)
        file.write_text("mine")
    (project / "link").symlink_to(victim)
    graph = {"stages": {name: outputs_and_deps(stage) for name, stage in stages.items()}}
    (project / "dvc.yaml").write_text(json.dumps(graph))
    values = json.loads(json.dumps(HOSTILE).replace("VICTIM", str(victim)))
    runs = [
        [name, *interpolated(stage["deps"]).pop().split("."), value]
        for name, stage in stages.items()
        for value in (values if name == "visualize" else values[:3])
    ]
    before = contents(victim, project / "mine")
    command = f"git init -q && dvc init -q && {sys.executable} -c '{HOSTILE_RUNS}'"
    done = subprocess.run(
        command,
        shell=True,
        cwd=project,
        env=DVC | {"HOME": str(project / ".home"), "DVC_SITE_CACHE_DIR": str(project / ".site")},
        input=json.dumps(runs),
        capture_output=True,
        text=True,
        check=True,
    )
    ended = re.findall(r"^ended: (\w+)$", done.stdout, re.M)
    assert len(ended) == len(runs) and ended.count("well") > 5, done.stdout
    assert contents(victim, project / "mine") == before
    assert all(file.read_text() == "mine" for file in theirs)
    assert sorted(tmp_path.iterdir()) == [project, victim]


def test_every_folder_of_the_package_has_tests():
    folders = {path.parent.name for path in (ROOT / "abn").glob("*/*.py")} - {"cli", "experiments"}
    assert all(any((ROOT / "tests" / folder).glob("test_*.py")) for folder in folders)


def test_three_files_import_mlflow_and_two_import_dvc():
    for path in [*(ROOT / "abn").rglob("*.py"), *(ROOT / "stages").glob("*.py")]:
        source = path.read_text()
        dvc = re.search(r"^\s*(import|from) dvc\b", source, re.M)
        reads_dvc = ("datasets/tree.py", "experiments/snapshots.py")
        assert any(map(path.match, reads_dvc)) or not dvc
        mlflow = re.search(r"^\s*(import|from) mlflow\b", source, re.M)
        may = ("tracking/client.py", "inference/registry.py", "inference/mlflow_model.py")
        assert any(map(path.match, may)) or not mlflow


SAFE = {("torch.load", "weights_only")}
TRUE = ast.Constant(True)
UNSAFE_MODULES = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
UNSAFE_CALLS = {"eval", "exec", "os.system", "os.popen", "torch.load", "torch.hub.load"}
UNSAFE_CALLS |= {
    "yaml.unsafe_load",
    "yaml.full_load",
    "pd.read_pickle",
    "torch.jit.load",
    "torch.package.PackageImporter",
}


@pytest.mark.parametrize("folder", ["abn", "stages"])
def test_no_code_can_run_what_it_reads(folder):
    """What ruff's rules (pyproject.toml) do not cover."""
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name for alias in node.names} | {getattr(node, "module", "") or ""}
                assert not {name.partition(".")[0] for name in names} & UNSAFE_MODULES, path
            if isinstance(node, ast.Call):
                name, keywords = ast.unparse(node.func), {k.arg: k.value for k in node.keywords}
                assert name not in UNSAFE_CALLS or (name, "weights_only") in SAFE & {
                    (name, keyword) for keyword in keywords
                }, path
                assert not keywords.keys() & {"shell", "allow_pickle"}, path
                assert ast.unparse(keywords.get("weights_only", TRUE)) == "True", path
                assert name != "yaml.load" or ast.unparse(keywords["Loader"]) == "_Loader", path


BYTES = {"Image", "gzip", "os", "tarfile"}  # whose `open` takes no encoding


def text_without_encoding(call: ast.Call) -> bool:
    """Whether `call` reads or writes text in whatever encoding the locale has."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if "encoding" in keywords:
        return False
    if name in ("read_text", "write_text"):
        return len(call.args) < (1 if name == "read_text" else 2)
    if name in ("open", "fdopen", "TemporaryFile", "NamedTemporaryFile"):
        owner = getattr(getattr(call.func, "value", None), "id", "")
        return owner not in BYTES and not any("b" in mode for mode in _modes(call))
    return bool(keywords.keys() & {"text", "universal_newlines"})


def _modes(call: ast.Call) -> list[str]:
    """The words among the arguments of an `open`, all but a file's name."""
    values = [*call.args, *(k.value for k in call.keywords if k.arg == "mode")]
    constants = [node for value in values for node in ast.walk(value)]
    words = [node.value for node in constants if isinstance(node, ast.Constant)]
    return [word for word in words if isinstance(word, str) and len(word) < 4]


LOCALES_CHOICE = """open(p) open(p,"w") p.open() p.open("a") p.read_text() p.write_text(x)
    p.write_text("a") run(c,text=True) NamedTemporaryFile("w")"""
NAMED = """open(p,"rb") p.open("ab"if(size)else"wb") p.read_text("utf-8") p.read_text(encoding=e)
    p.write_text(x,encoding="utf-8") p.write_text(x,"utf-8") run(c,encoding="utf-8")
    Image.open(p) run(c)"""


@pytest.mark.parametrize(("calls", "odd"), [(LOCALES_CHOICE, True), (NAMED, False)])
def test_text_without_an_encoding_is_found(calls, odd):
    for source in calls.split():
        call = ast.parse(source, mode="eval").body
        assert isinstance(call, ast.Call) and text_without_encoding(call) == odd, source


@pytest.mark.parametrize("folder", ["abn", "stages", "benchmarks"])
def test_every_text_is_read_and_written_in_an_encoding_that_is_named(folder):
    for path in (ROOT / folder).rglob("*.py"):
        calls = (n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call))
        odd = [call.lineno for call in calls if text_without_encoding(call)]
        assert odd == [], path


def test_the_lock_pins_every_package_by_hash_and_names_no_index():
    text = (ROOT / "requirements.lock").read_text()
    pins = re.findall(r"^([\w.-]+)==", text, re.M)
    blocks = re.split(r"^(?=[\w.-]+==)", text, flags=re.M)[1:]
    assert len(pins) > 50 and all("--hash=sha256:" in block for block in blocks)
    assert "://" not in text and "--index" not in text and "--find-links" not in text
