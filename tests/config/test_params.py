"""What params.yaml may hold: what is committed is valid, and every fault gets one useful line."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dvc.utils.serialize import parse_yaml
from jsonschema import Draft202012Validator
from pydantic import ValidationError
from ruamel.yaml import YAML

from abn.config import params as parameters
from abn.config import yaml_file
from abn.runtime.errors import UserError

ROOT = Path(__file__).parents[2]
DEFAULT = (ROOT / "params.yaml").read_text()
SCHEMA = ROOT / "schema/params.schema.json"
FILES = [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml"))]

# A line of params.yaml, what it becomes, and what the message must hold.
EDITS = [
    # unknown, missing, twice
    ("flip: true", "flips: true", ["train.flips", "did you mean flip?"]),
    ("arch: resnet18", "Arch: resnet18", ["Arch", "did you mean arch?"]),
    ("train:\n  epochs", "trian:\n  epochs", ["trian", "did you mean train?"]),
    ("clutter: 0.15", "cluter: 0.35", ["data.shapes.cluter", "did you mean clutter?"]),
    ("seed: 42", "seed: 42\nbrightness: 1", ["unknown key; ", "brightness = 1; remove it"]),
    ("seed: 42", "seed: 42\n7: 1", ["7", "Keys should be strings"]),
    ("seed: 42", 'seed: 42\n"a\\nb": 1', ["a b = 1", "unknown key"]),
    ("flip: true", "", ["missing; ", "train.flip; add it"]),
    ("arch: resnet18", "", ["missing; ", "arch; add it"]),
    ("flip: true", "flip: true\n  flip: true", ["duplicate key", "flip", "line 33"]),
    ("\nvisualize:", "\nexplain:", ["duplicate key", "explain"]),
    # the wrong type
    ("epochs: 4", "epochs: six", ["train.epochs = 'six'", "integer"]),
    ("epochs: 4", "epochs: '6'", ["train.epochs = '6'", "integer"]),
    ("epochs: 4", "epochs: 6.5", ["train.epochs = 6.5", "integer"]),
    ("epochs: 4", "epochs: true", ["train.epochs = True", "integer"]),
    ("epochs: 4", "epochs: null", ["train.epochs = None", "integer"]),
    ("epochs: 4", "epochs: [6]", ["train.epochs = [6]", "integer"]),
    ("lr: 0.03", "lr: '0.05'", ["train.lr = '0.05'", "number"]),
    ("lr: 0.03", "lr: true", ["train.lr = True", "number"]),
    ("flip: true", "flip: 1", ["train.flip = 1", "'alternating'"]),
    ("flip: true", "flip: yes", ["train.flip = 'yes'", "'alternating'"]),
    ("flip: true", "flip: 2024-01-01", ["train.flip = ", "'alternating'"]),
    ("flip: true", "flip: sometimes", ["train.flip = 'sometimes'", "'alternating'"]),
    ("sizes: [64]", "sizes: 64", ["train.sizes = 64", "tuple"]),
    ("sizes: [64]", "sizes: ['64']", ["train.sizes.0 = '64'", "integer"]),
    ("sizes: [64]", "sizes: [64.0]", ["train.sizes.0 = 64.0", "integer"]),
    ("root: images", "root: 3", ["data.root = 3", "string"]),
    ("md5: null", "md5: 0", ["data.md5 = 0", "string"]),
    ("\ndata:", "\ndata: 5\nx:", ["x = ", "unknown key"]),
    # out of range
    ("seed: 42", "seed: -1", ["seed = -1", "greater than or equal to 0"]),
    ("seed: 42", f"seed: {10**30}", [f"seed = {10**30}", "less than"]),
    ("arch: resnet18", "arch: vgg16", ["arch = 'vgg16'", "'resnet152'"]),
    ("name: shapes", "name: mnist", ["data.name = 'mnist'", "'imagenette'"]),
    ("size: 64", "size: 16", ["data.size = 16", "32"]),
    ("size: 64", "size: 1000000000", ["data.size = 1000000000", "1024"]),
    ("holdout: 0.0", "holdout: 0.6", ["data.holdout = 0.6", "0.5"]),
    ("val_fraction: 0.2", "val_fraction: 1.0", ["data.val_fraction = 1.0", "less than 1"]),
    ("distractors: 1", "distractors: 4", ["data.shapes.distractors = 4", "3"]),
    ("epochs: 4", "epochs: 0", ["train.epochs = 0", "1"]),
    ("batch_size: 32", "batch_size: 1", ["train.batch_size = 1", "2"]),
    ("lr: 0.03", "lr: 0", ["train.lr = 0", "greater than 0"]),
    ("lr: 0.03", "lr: .nan", ["train.lr = nan", "finite"]),
    ("lr: 0.03", "lr: .inf", ["train.lr = inf", "finite"]),
    ("lr: 0.03", "lr: 1e999", ["train.lr = inf", "finite"]),
    ("momentum: 0.9", "momentum: 1.0", ["train.momentum = 1.0", "less than 1"]),
    ("milestones: []", "milestones: [0]", ["train.milestones.0 = 0", "1"]),
    ("sizes: [64]", "sizes: []", ["train.sizes = []", "at least 1"]),
    ("jitter: 0.0", "jitter: 1.0", ["train.jitter = 1.0", "less than 1"]),
    ("erase: 0.0", "erase: 1.5", ["train.erase = 1.5", "1"]),
    ("mixup: 0.0", "mixup: -1", ["train.mixup = -1", "0"]),
    ("cutmix: 0.0", "cutmix: 11", ["train.cutmix = 11", "10"]),
    ("ema: 0.0", "ema: 1.0", ["train.ema = 1.0", "less than 1"]),
    ("zero_init: false", "zero_init: 0", ["train.zero_init = 0", "boolean"]),
    ("compile: auto", "compile: true", ["train.compile = True", "'off'"]),
    ("alpha: 1.0", "alpha: -0.1", ["visualize.alpha = -0.1", "0"]),
    ("root: images", "root: ''", ["data.root = ''", "at least 1 character"]),
    ("prefix: abn", "prefix: ../abn", ["visualize.prefix = '../abn'", "pattern"]),
    ("prefix: abn", f"prefix: {'a' * 99}", ["visualize.prefix = 'aaa", "...", "pattern"]),
    ("md5: null", "md5: abc", ["data.md5 = 'abc'", "pattern"]),
    ("crop_scale: [0.9, 1.0]", "crop_scale: [0.6]", ["missing; ", "train.crop_scale.1"]),
    ("crop_scale: [0.9, 1.0]", "crop_scale: [0.6, 1, 1]", ["crop_scale", "at most 2"]),
    # what leads out of the project, or a terminal astray
    ("root: images", "root: /data/mine", ["cannot be; ", "data.root = '/data/mine'", "a link"]),
    ("root: images", "root: ../images", ["data.root = '../images'", "in the project"]),
    ("root: images", "root: images/../../mine", ["data.root = ", "in the project"]),
    ("root: images", "root: s3://bucket/images", ["data.root = 's3://", "in the project"]),
    ("root: images", r"root: C:\\images", ["data.root = ", "in the project"]),
    ("root: images", f"root: {'ä' * 200}", ["data.root = ", "255 bytes"]),
    ("root: images", f"root: {'a/' * 600}", ["data.root = ", "at most 1000 characters"]),
    ("root: images", r'root: "a\x1b[2J"', [r"data.root = 'a\x1b[2J'", "control characters"]),
    ("root: images", r'root: "a\u202eb"', [r"'a\u202eb'", "control characters"]),
    ("siblings: []", "siblings: [a, ../b]", ["explain.siblings.1 = '../b'", "in the project"]),
    ("prefix: abn", r'prefix: "abn\n"', ["visualize.prefix = ", "pattern"]),
    ("seed: 42", 'seed: 42\n"a\\x1b[2J": 1', [r"a\x1b[2J = 1", "unknown key"]),
    # combinations that cannot be
    ("url: null", "url: http://example.org/x.tgz", ["data.md5 = None", "go together"]),
    ("md5: null", f"md5: {'a' * 32}", ["data.md5 = 'aaa", "go together"]),
    ("diameter: [0.48, 0.56]", "diameter: [0.48, 0.38]", ["data.shapes.diameter", "[low, high]"]),
    ("crop_scale: [0.9, 1.0]", "crop_scale: [1.0, 0.6]", ["train.crop_scale", "[low, high]"]),
    ("crop_scale: [0.9, 1.0]", "crop_scale: [0, 1]", ["train.crop_scale", "0 < low"]),
    ("sizes: [64]", "sizes: [64, 96]", ["train.grow_at = []", "give 1 here"]),
    ("grow_at: []", "grow_at: [0.5]", ["train.grow_at = [0.5]", "give 0 here"]),
    ("milestones: []", "milestones: [4, 2]", ["train.milestones = [4, 2]", "must rise"]),
    ("momentum: 0.9", "momentum: 0", ["train.nesterov = True", "momentum above 0"]),
    ("  resize: 64", "  resize: 32", ["evaluate.resize = 32", "at least that"]),
    ("val_resize: 64", "val_resize: 48", ["train.val_resize = 48", "crop of 64", "at least that"]),
    ("mix_share: 0.0", "mix_share: 0.5", ["train.mix_share = 0.5", "mixup or cutmix"]),
    # what the parser stumbles over
    ("flip: true", "flip: [true", ["not valid YAML", "line 33"]),
    ("flip: true", "flip: a: b", ["not valid YAML", "line 32"]),
    ("flip: true", "\tflip: true", ["not valid YAML", "line 32"]),
    ("flip: true", "flip: *flip", ["an alias in line 32", "plain values"]),
    ("flip: true", "flip: &flip true", ["an anchor in line 32", "plain values"]),
    ("flip: true", "<<: {flip: true}", ["a merge key in line 32", "plain values"]),
    ("flip: true", "flip: !!python/object:os.system true", ["a tag in line 32"]),
    ("flip: true", "flip: !!python/object/apply:os.getcwd []", ["a tag in line 32"]),
    ("epochs: 4", "epochs: !!int 4", ["a tag in line 27", "plain values"]),
    ("epochs: 4", "epochs: =", ["not valid YAML", "line 27"]),
    ("epochs: 4", "epochs: 2024-13-45", ["not valid YAML", "month"]),
    ("epochs: 4", "epochs: 9999-12-31 23:59:59 -23", ["train.epochs = datetime"]),
    ("epochs: 4", f"epochs: {'9' * 5000}", ["a value of more than 2000 characters in line 27"]),
    ("epochs: 4", f"epochs: 0x{'f' * 1990}", ["train.epochs = ", "..."]),
    ("epochs: 4", "epochs: 6\n---\nepochs: 7", ["not valid YAML", "another document"]),
    ("epochs: 4", "epochs: \0", ["not valid YAML", "#x0000"]),
]
WHOLES = [
    ("", "the file = None"),
    ("# only a comment\n", "the file = None"),
    ("- arch: resnet18\n", "the file = [{'arch': 'resnet18'}]"),
    ("resnet18", "the file = 'resnet18'"),
    ("{", "not valid YAML"),
    ("[" * 500, "nested more than 20 deep in line 1"),
    ("%YAML 1.1\n---\na: no\n", "a directive in line 2"),
    ("- a\n" * 2001, "more than 2000 values in line 2000"),
    ("#" * (32 * 1024 + 1), "over 32768 bytes"),
]


def edited(line: str, instead: str) -> str:
    assert line in DEFAULT
    return DEFAULT.replace(line, instead, 1)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        parameters.load(path)
    return str(caught.value)


TEXTS = [
    *("arch", "data.name", "data.variant", "data.url", "data.md5", "data.root", "train.schedule"),
    *("train.precision", "train.compile", "train.select", "evaluate.checkpoint"),
    *("explain.checkpoint", "explain.profile", "explain.siblings", "visualize.checkpoint"),
    "visualize.prefix",
]
PATHS = [key for key in TEXTS if "checkpoint" in key] + ["data.root", "explain.siblings"]
FREE = [*PATHS, "data.url", "visualize.prefix"]


def texts(section: dict, prefix: str = "") -> Iterator[str]:
    """The dotted keys of all texts in `section`."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield from texts(value, f"{prefix}{key}.")
        elif isinstance(value, str):
            yield f"{prefix}{key}"


def at(section: dict, key: str) -> str:
    """The text at the dotted `key`, or the first of its list."""
    for name in key.split("."):
        section = section[name]
    return section if isinstance(section, str) else section[0]


def put(whole: dict, key: str, text: str) -> None:
    """Set the dotted `key` in `whole`, and what must go with it."""
    *sections, name = key.split(".")
    section = whole
    for part in sections:
        section = section[part]
    section[name] = [text] if key == "explain.siblings" else text
    whole["data"]["md5"] = "a" * 32 if key == "data.url" else whole["data"]["md5"]


def values(path: Path) -> dict:
    return YAML(typ="safe", pure=True).load(path.read_text())


def run_train(folder: Path, *options: str) -> subprocess.CompletedProcess:
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    env.pop("ABN_DEBUG", None)
    command = [sys.executable, *options, "-m", "stages.train"]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


@pytest.mark.parametrize("line, instead, expected", EDITS, ids=[edit[1][:40] for edit in EDITS])
def test_a_bad_edit_is_refused_in_one_line_with_key_and_remedy(tmp_path, line, instead, expected):
    path = tmp_path / "params.yaml"
    path.write_text(edited(line, instead))
    message = refusal(path)
    assert f"; {path}: " in message or f"; {path}; " in message
    assert len(message.splitlines()) == 1
    assert [part for part in expected if part not in message] == [], message


@pytest.mark.parametrize("text, expected", WHOLES, ids=[text[:20] for text, _ in WHOLES])
def test_what_is_no_mapping_is_refused_in_one_line(tmp_path, text, expected):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    message = refusal(path)
    assert str(path) in message and expected in message
    assert len(message.splitlines()) == 1


HOSTILE = [
    *("..", "../x", "a/../../x", "/etc/passwd", "//host/x", "C:\\x", "C:/x", "..\\x", "s3://b/x"),
    *("file:///etc/passwd", "remote://x/y", "~root/x", "$HOME", "${data.root}", "$(id)", "`id`"),
    *("; id", "| id", "a\0b", "a\nb", "a\rb", "a\tb", "a\x1b[2Jb", "a\x7fb", "a\x85b", "a\u2028b"),
    *("a\u200bb", "a\u202eb", "a\ufeffb", "\ud800", "", " ", "-rf", "%s%n", "{0}", "a" * 300),
    *("a/" * 600, "'\"", "<script>", "*", "?", "con", ".git/config", "mlflow.db"),
]


@pytest.mark.parametrize("key", TEXTS)
def test_no_text_leads_out_of_the_project_or_a_terminal_astray(tmp_path, key, monkeypatch):
    assert len(set(HOSTILE)) >= 40
    whole = values(ROOT / "params.yaml")
    monkeypatch.setattr(yaml_file, "read", lambda path: whole)  # test_document reads files
    for hostile in HOSTILE:
        put(whole, key, hostile)
        try:
            accepted = parameters.load(tmp_path / "params.yaml")
        except UserError as error:
            assert error.line().isprintable()
            continue
        assert hostile.isprintable() and key in FREE, (key, hostile)
        if key != "data.url":
            inside = (tmp_path / at(accepted.model_dump(), key)).resolve()
            assert inside.is_relative_to(tmp_path) and len(inside.name) <= 255


def test_params_hold_no_other_texts():
    found = set(texts(parameters.load(ROOT / "params.yaml").model_dump()))
    assert {key for key in TEXTS if key not in ("data.url", "data.md5", "explain.siblings")} == (
        found - {"train.flip"}
    )


def test_the_password_of_an_address_stays_in_params(tmp_path):
    path = tmp_path / "params.yaml"
    secret = "https://me:se/c@ret@example.org/x.tgz?token=hidden"
    given = edited("url: null", f"url: {secret}").replace("md5: null", f"md5: {'a' * 32}")
    path.write_text(given)
    data = parameters.load(path).data
    assert data.url == secret
    assert data.model_dump(mode="json")["url"] == "https://***@example.org/x.tgz"
    for fault in ("urls:", "url: {a: 1, b:", "url:\n    -", "url: a\n  url:", "shapes: ["):
        close = {"url: {a: 1, b:": "}", "shapes: [": "]\n  x:"}.get(fault, "")
        path.write_text(given.replace(f"url: {secret}", f"{fault} {secret}{close}"))
        message = refusal(path)
        assert "ret@" not in message and "hidden" not in message, message


@pytest.mark.parametrize("section", ["data", "train", "evaluate", "explain", "visualize"])
def test_a_missing_section_is_named(tmp_path, section):
    path = tmp_path / "params.yaml"
    path.write_text(re.sub(rf"(?ms)^{section}:\n(  .*?\n)+", "", DEFAULT))
    assert refusal(path).startswith(f"missing; {path}: {section}; add it")


def test_further_faults_are_counted(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(edited("epochs: 4", "epochs: 0").replace("dpi: 200", "dpi: 0"))
    assert refusal(path).endswith("(and 1 more)")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
class TestEveryCommittedFile:
    def test_is_valid(self, path):
        assert parameters.load(path).model_dump(mode="json") == values(path)

    def test_satisfies_the_schema(self, path):
        Draft202012Validator(json.loads(SCHEMA.read_text())).validate(values(path))

    def test_tells_editors_of_the_schema(self, path):
        first = path.read_text().splitlines()[0]
        prefix, _, target = first.partition("$schema=")
        assert prefix == "# yaml-language-server: "
        assert (path.parent / target).resolve() == SCHEMA


def test_the_committed_schema_is_the_generated_one():
    Draft202012Validator.check_schema(json.loads(parameters.schema()))
    assert SCHEMA.read_text() == parameters.schema()


@pytest.mark.parametrize("line, instead", [("lr: 0.03", "lr: x"), ("flip: true", "flips: true")])
def test_the_schema_refuses_a_wrong_type_and_an_unknown_key(line, instead):
    found = YAML(typ="safe", pure=True).load(edited(line, instead))
    assert not Draft202012Validator(json.loads(SCHEMA.read_text())).is_valid(found)


def test_every_section_is_frozen(params):
    for section in (params, params.data, params.data.shapes, params.train, params.evaluate):
        name = next(iter(type(section).model_fields))
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, name, getattr(section, name))


def test_lists_become_tuples_and_whole_numbers_are_accepted_as_shares(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(edited("crop_scale: [0.9, 1.0]", "crop_scale: [1, 1]"))
    assert parameters.load(path).train.crop_scale == (1.0, 1.0)


@pytest.mark.parametrize("text, number", [("1e-3", 1e-3), ("5E-4", 5e-4), ("1e2", 100.0)])
def test_an_exponent_without_a_point_is_a_number_here_and_to_dvc(tmp_path, text, number):
    path = tmp_path / "params.yaml"
    path.write_text(edited("lr: 0.03", f"lr: {text}"))
    assert parameters.load(path).train.lr == number
    assert parse_yaml(path.read_text(), path)["train"]["lr"] == number


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_dvc_reads_the_same_values(path):
    assert parse_yaml(path.read_text(), path) == values(path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_so_does_another_parser_on_a_machine_without_ours(path):
    assert yaml.safe_load(path.read_text()) == values(path)


@pytest.mark.parametrize(
    "text, value", [("true", True), ("false", False), ("alternating", "alternating")]
)
def test_images_are_flipped_by_chance_never_or_in_turns(tmp_path, text, value):
    path = tmp_path / "params.yaml"
    path.write_text(edited("flip: true", f"flip: {text}"))
    assert parameters.load(path).train.flip == value


@pytest.mark.parametrize("word", ["on", "off"])
def test_on_and_off_are_words_here_and_to_dvc(tmp_path, word):
    path = tmp_path / "params.yaml"
    path.write_text(edited("compile: auto", f"compile: {word}"))
    assert parameters.load(path).train.compile == word
    assert parse_yaml(path.read_text(), path)["train"]["compile"] == word


@pytest.mark.parametrize("alphas", [("0.2", "0.0"), ("0.0", "1.0"), ("0.2", "1.0")])
def test_one_alpha_is_enough_to_mix(tmp_path, alphas):
    path = tmp_path / "params.yaml"
    mixed = edited("mixup: 0.0", f"mixup: {alphas[0]}").replace("mix_share: 0.0", "mix_share: 0.5")
    path.write_text(mixed.replace("cutmix: 0.0", f"cutmix: {alphas[1]}"))
    assert parameters.load(path).train.mix_share == 0.5


def test_the_original_recipe_has_none_of_what_came_later():
    train = parameters.load(ROOT / "presets/imagenette.yaml").train
    shares = ("jitter", "erase", "mixup", "cutmix", "mix_share", "ema", "label_smoothing")
    assert {getattr(train, name) for name in shares} == {0.0}
    assert (train.zero_init, train.flip, train.sizes) == (False, True, (224,))


def test_a_stage_refuses_bad_params_in_one_line_and_writes_nothing(tmp_path):
    (tmp_path / "params.yaml").write_text(edited("epochs: 4", "epochs: 0"))
    done = run_train(tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.fullmatch(r"error\[PARAMS\] .*; params\.yaml: train\.epochs = 0; .*\n", done.stderr)
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_a_stage_checks_its_params_before_it_imports_torch(tmp_path):
    (tmp_path / "params.yaml").write_text(edited("epochs: 4", "epochs: 0"))
    lines = run_train(tmp_path, "-X", "importtime").stderr.splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines if "|" in line}
    assert "pydantic" in imported
    assert imported.isdisjoint({"torch", "pandas", "mlflow"})
