"""What params.yaml may hold: what is committed is valid, and every fault gets one useful line."""

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.serialize import load_yaml
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from abn.config import params as parameters
from abn.config import yaml_file
from abn.runtime.errors import UserError
from abn.runtime.redaction import redacted
from tests.damage import damaged

ROOT = Path(__file__).parents[2]
DEFAULT = (ROOT / "params.yaml").read_text()
SCHEMA = ROOT / "schema/params.schema.json"
FILES = [ROOT / "params.yaml", *sorted((ROOT / "presets").glob("*.yaml"))]

# A line of params.yaml, what it becomes, and what the message must contain.
EDITS = [
    # unknown, missing, twice
    ("flip: true", "flips: true", ["train.flips", "did you mean flip?"]),
    ("train:\n  epochs", "trian:\n  epochs", ["trian", "did you mean train?"]),
    ("clutter: 0.35", "cluter: 0.35", ["data.shapes.cluter", "did you mean clutter?"]),
    ("seed: 42", "seed: 42\n7: 1", ["7", "Keys should be strings"]),
    ("seed: 42", "seed: 42\na: &a [*a]", ["unknown key; ", "a = [[", "remove it"]),
    ("flip: true", "", ["missing; ", "train.flip; add it"]),
    ("\nvisualize:", "\nexplain:", ["duplicate key", "explain"]),
    # the wrong type
    ("epochs: 4", "epochs: six", ["train.epochs = 'six'", "integer"]),
    ("epochs: 4", "epochs: '6'", ["train.epochs = '6'", "integer"]),
    ("epochs: 4", "epochs: 6.5", ["train.epochs = 6.5", "integer"]),
    ("epochs: 4", "epochs: true", ["train.epochs = True", "integer"]),
    ("epochs: 4", "epochs: null", ["train.epochs = None", "integer"]),
    ("epochs: 4", f"epochs: 0x{'f' * 990}", ["train.epochs = ", "..."]),
    ("lr: 0.03", "lr: '0.05'", ["train.lr = '0.05'", "number"]),
    ("flip: true", "flip: 1", ["train.flip = 1", "'alternating'"]),
    ("flip: true", "flip: yes", ["train.flip = 'yes'", "'alternating'"]),
    ("flip: true", "flip: 2024-01-01", ["train.flip = datetime.date(", "'alternating'"]),
    ("sizes: [64]", "sizes: 64", ["train.sizes = 64", "tuple"]),
    ("sizes: [64]", "sizes: [64.0]", ["train.sizes.0 = 64.0", "integer"]),
    ("md5: null", "md5: 0", ["data.md5 = 0", "string"]),
    # out of range
    ("seed: 42", f"seed: {10**30}", [f"seed = {10**30}", "less than"]),
    ("arch: resnet18", "arch: vgg16", ["arch = 'vgg16'", "'resnet152'"]),
    ("size: 64", "size: 16", ["data.size = 16", "32"]),
    ("size: 64", "size: 1000000000", ["data.size = 1000000000", "1024"]),
    ("holdout: 0.0", "holdout: 0.6", ["data.holdout = 0.6", "0.5"]),
    ("val_fraction: 0.2", "val_fraction: 1.0", ["data.val_fraction = 1.0", "less than 1"]),
    ("distractors: 1", "distractors: 4", ["data.shapes.distractors = 4", "3"]),
    ("epochs: 4", "epochs: 0", ["train.epochs = 0", "1"]),
    ("batch_size: 32", "batch_size: 1", ["train.batch_size = 1", "2"]),
    ("lr: 0.03", "lr: 0", ["train.lr = 0", "greater than 0"]),
    ("lr: 0.03", "lr: .nan", ["train.lr = nan", "finite"]),
    ("lr: 0.03", "lr: 1e999", ["train.lr = inf", "finite"]),
    ("momentum: 0.9", "momentum: 1.0", ["train.momentum = 1.0", "less than 1"]),
    ("milestones: []", "milestones: [0]", ["train.milestones.0 = 0", "1"]),
    ("sizes: [64]", "sizes: []", ["train.sizes = []", "at least 1"]),
    ("mixup: 0.0", "mixup: -1", ["train.mixup = -1", "0"]),
    ("compile: auto", "compile: true", ["train.compile = True", "'off'"]),
    ("root: images", "root: ''", ["data.root = ''", "at least 1 character"]),
    ("alpha: 1.0", "alpha: 1.0\n  prefix: abn", ["visualize.prefix = 'abn'; remove it: the"]),
    ("md5: null", "md5: abc", ["data.md5 = 'abc'", "pattern"]),
    ("crop_scale: [0.9, 1.0]", "crop_scale: [0.6]", ["missing; ", "train.crop_scale.1"]),
    ("crop_scale: [0.9, 1.0]", "crop_scale: [0.6, 1, 1]", ["crop_scale", "at most 2"]),
    # what leads out of the project, or moves a terminal's cursor
    ("root: images", "root: /data/mine", ["wrong value; ", "data.root = '/data/mine'", "a link"]),
    ("root: images", f"root: {'a/' * 600}", ["data.root = ", "at most 1000 characters"]),
    ("root: images", r'root: "a\x1b[2J"', [r"data.root = 'a\x1b[2J'", "control characters"]),
    ("siblings: []", "siblings: [a, ../b]", ["explain.siblings.1 = '../b'", "in the project"]),
    # invalid combinations
    ("url: null", "url: http://example.org/x.tgz", ["data.md5 = None", "go together"]),
    ("md5: null", f"md5: {'a' * 32}", ["invalid combination; ", "data.md5 = 'aaa"]),
    ("diameter: [0.48, 0.56]", "diameter: [0.48, 0.38]", ["data.shapes.diameter", "[low, high]"]),
    ("crop_scale: [0.9, 1.0]", "crop_scale: [0, 1]", ["train.crop_scale", "0 < low"]),
    ("sizes: [64]", "sizes: [64, 96]", ["train.grow_at = []", "give 1 here"]),
    ("milestones: []", "milestones: [4, 2]", ["train.milestones = [4, 2]", "must rise"]),
    ("momentum: 0.9", "momentum: 0", ["train.nesterov = True", "momentum above 0"]),
    ("  resize: 64", "  resize: 32", ["evaluate.resize = 32", "at least that"]),
    ("  resize: 64", "  resize: null", ["evaluate.resize = None", "or null for both"]),
    ("val_resize: 64", "val_resize: 48", ["train.val_resize = 48", "crop of 64", "at least that"]),
    ("mix_share: 0.0", "mix_share: 0.5", ["train.mix_share = 0.5", "mixup or cutmix"]),
    ("attention_masks: 1.0", "attention_masks: 0", ["train.attention_masks = 0", "greater than 0"]),
    ("init: random", "init: /data/a.pth", ["train.init = '/data/a.pth'", "a link will do"]),
    ("init: random", "init: checkpoint/model.safetensors", ["train.init", "copy the file"]),
    ("init_sha256: null", "init_sha256: abc", ["train.init_sha256 = 'abc'", "pattern"]),
    ("init_sha256: null", f"init_sha256: {'a' * 64}", ["train.init_sha256", "unless init names"]),
    ("freeze: none", "freeze: layer1", ["train.init = 'random'", "freeze: none", "new_lr: 1.0"]),
    ("new_lr: 1.0", "new_lr: 10.0", ["train.init = 'random'", "freeze: none", "new_lr: 1.0"]),
    ("attention_loss: 0.0", "attention_loss: -1", ["train.attention_loss = -1", "or equal to 0"]),
    ("trivial: 0.0", "trivial: 1.5", ["train.trivial = 1.5", "1"]),
    ("sam: 0.0", "sam: -0.05", ["train.sam = -0.05", "or equal to 0"]),
    ("sam_from: 0.0", "sam_from: 1.0", ["train.sam_from = 1.0", "less than 1"]),
    ("optimizer: sgd", "optimizer: adam", ["train.optimizer = 'adam'", "'muon'"]),
    ("muon_lr: 0.02", "muon_lr: 0", ["train.muon_lr = 0", "greater than 0"]),
    ("smooth: false", "smooth: 1", ["smooth = 1", "boolean"]),
]


def edited(line: str, replacement: str) -> str:
    assert line in DEFAULT
    return DEFAULT.replace(line, replacement, 1)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        parameters.load(path)
    assert caught.value.line().isprintable()
    return str(caught.value)


@pytest.mark.parametrize(
    ("line", "replacement", "expected"), EDITS, ids=[edit[1][:40] for edit in EDITS]
)
def test_a_bad_edit_is_refused_in_one_line_with_key_and_remedy(
    tmp_path: Path, line: str, replacement: str, expected: list[str]
) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(edited(line, replacement))
    message = refusal(path)
    assert f"; {path}: " in message or f"; {path}; " in message
    assert [part for part in expected if part not in message] == [], message


@pytest.mark.parametrize("section", ["data", "train", "evaluate", "explain", "visualize"])
def test_a_missing_section_is_named(tmp_path: Path, section: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(re.sub(rf"(?ms)^{section}:\n(  .*?\n)+", "", DEFAULT))
    assert refusal(path).startswith(f"missing; {path}: {section}; add it")


def test_further_faults_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(edited("epochs: 4", "epochs: 0").replace("dpi: 200", "dpi: 0"))
    assert refusal(path).endswith("(and 1 more)")


HOSTILE = [
    *["..", "../x", "a/../../x", "/etc/passwd", "//host/x", "C:\\x", "C:/x", "..\\x", "s3://b/x"],
    *["file:///etc/passwd", "$HOME", "${data.root}", "$(id)", "; id", "a\0b", "a\nb", "a\tb"],
    *["a\x1b[2Jb", "a\x7fb", "a\x85b", "a\u2028b", "a\u200bb", "a\u202eb", "\ud800", "", "-rf"],
    *["*", "{0}", "a" * 300, "a/" * 600, "<script>", ".git/config"],
]
TEXTS = {  # every key whose value is a free text; True: a path
    **{"data.url": False, "data.root": True, "explain.siblings": True},
    "train.init": True,
    **{f"{stage}.checkpoint": True for stage in ("evaluate", "explain", "visualize")},
}


@pytest.mark.parametrize("key", TEXTS)
def test_no_text_leads_out_of_the_project_or_moves_the_cursor(
    tmp_path: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    section, name = key.split(".")
    for hostile in HOSTILE:
        values = yaml_file.loads(DEFAULT, "params.yaml")
        values["data"]["md5"] = "a" * 32 if key == "data.url" else None
        values[section][name] = [hostile] if key == "explain.siblings" else hostile
        monkeypatch.setattr(yaml_file, "read", lambda path, values=values: values)
        try:
            accepted = parameters.load(tmp_path / "params.yaml").model_dump()[section][name]
        except UserError as error:
            assert error.line().isprintable()
            continue
        path = (tmp_path / (accepted if isinstance(accepted, str) else accepted[0])).resolve()
        assert hostile.isprintable()
        assert not TEXTS[key] or path.is_relative_to(tmp_path)


def test_a_urls_password_is_in_the_params_but_not_in_json_or_messages(tmp_path: Path) -> None:
    path, secret = tmp_path / "params.yaml", "https://me:se/c@ret@example.org/x.tgz?token=hidden"
    given = edited("url: null", f"url: {secret}").replace("md5: null", f"md5: {'a' * 32}")
    path.write_text(given)
    data = parameters.load(path).data
    assert data.url == secret
    assert data.model_dump(mode="json")["url"] == "https://***@example.org/x.tgz"
    for fault in ("urls: X", "url: {a: 1, b: X}", "url:\n    - X", "url: a\n  url: X", "url: ['X"):
        path.write_text(given.replace(f"url: {secret}", fault.replace("X", secret)))
        message = refusal(path)
        assert "ret@" not in message and "hidden" not in message, message


# In YAML, to be put in the place of a value.
VALUES = [
    *["null", "yes", "on", "0", "-0", "1e9", "0.5", "1e309", ".nan", "0x10", "012", "1_000"],
    *["'a'", "..", "a/../b", "s3://a/b", "https://me:secret@h/?secret", "é", "{a: 1}", "{1: a}"],
    *['"\\x1b[2J"', '"\\ud800"', "2001-01-01", "2001-02-30", "[]", "{}", "[64]", "[[64]]"],
    *["[.nan]", "&a [*a]", "1:30", "!!int '1'", "=", "? a", "- 1", "|", "@", "'", "[", "}", "#"],
]


def damaged_params(draws: random.Random) -> bytes:
    """The committed file with some values replaced, lines lost or bytes damaged."""
    lines = DEFAULT.splitlines()
    for _ in range(draws.randint(1, 2)):
        place = draws.randrange(len(lines))
        key, colon, _ = lines[place].partition(":")
        mild = draws.choice(["0.5", "1.0", "64", "true", "2", "images", "null"])
        value = draws.choice([mild, draws.choice(VALUES), f"1\n{key}: 2"])
        lines[place : place + 1] = [f"{key}{colon} {value}"] if draws.random() < 0.9 else []
    content = "\n".join(lines).encode("utf-8", "surrogatepass")
    return damaged(content, draws, 3) if draws.random() < 0.3 else content


def test_damaged_params_are_read_as_dvc_reads_them_or_refused(tmp_path: Path) -> None:
    path, read = tmp_path / "params.yaml", 0
    for seed in range(200):
        path.write_bytes(damaged_params(random.Random(seed)))
        try:
            params = parameters.load(path)
        except UserError as error:
            line = error.line()
            assert line.startswith("error[PARAMS] ") and line.isprintable() and len(line) < 1000
            assert "secret" not in line, line
        else:
            read += 1
            values = load_yaml(path)
            values["data"]["url"] = values["data"]["url"] and redacted(values["data"]["url"])
            assert params.model_dump(mode="json") == values
    assert read >= 3


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
class TestEveryCommittedFile:
    def test_is_valid(self, path: Path) -> None:
        assert parameters.load(path).model_dump(mode="json") == yaml_file.read(path)

    def test_is_read_alike_by_any_parser(self, path: Path) -> None:
        assert yaml.safe_load(path.read_text()) == yaml_file.read(path)

    def test_satisfies_the_schema(self, path: Path) -> None:
        Draft202012Validator(json.loads(SCHEMA.read_text())).validate(yaml_file.read(path))

    def test_names_the_schema_for_editors(self, path: Path) -> None:
        prefix, _, target = path.read_text().splitlines()[0].partition("$schema=")
        assert prefix == "# yaml-language-server: "
        assert (path.parent / target).resolve() == SCHEMA


def test_the_committed_schema_is_the_generated_one() -> None:
    Draft202012Validator.check_schema(json.loads(parameters.schema()))
    assert SCHEMA.read_text() == parameters.schema()


@pytest.mark.parametrize(
    ("line", "replacement"), [("lr: 0.03", "lr: x"), ("flip: true", "flips: true")]
)
def test_the_schema_refuses_a_wrong_type_and_an_unknown_key(line: str, replacement: str) -> None:
    values = yaml_file.loads(edited(line, replacement), "params.yaml")
    assert not Draft202012Validator(json.loads(SCHEMA.read_text())).is_valid(values)


def test_every_section_is_frozen(params: parameters.Params) -> None:
    for section in (params, params.data, params.data.shapes, params.train, params.evaluate):
        name = next(iter(type(section).model_fields))
        with pytest.raises(ValidationError, match="frozen"):
            setattr(section, name, getattr(section, name))


@pytest.mark.parametrize(
    ("line", "replacement", "value"),
    [
        ("crop_scale: [0.9, 1.0]", "crop_scale: [1, 1]", (1.0, 1.0)),
        ("lr: 0.03", "lr: 1e-3", 0.001),
        ("flip: true", "flip: alternating", "alternating"),
        ("compile: auto", "compile: on", "on"),
        ("mixup: 0.0", "mixup: 0.2\n  mix_share: 0.5", 0.2),
        ("cutmix: 0.0", "cutmix: 1.0\n  mix_share: 0.5", 1.0),
    ],
)
def test_a_good_edit_is_accepted(tmp_path: Path, line: str, replacement: str, value: Any) -> None:
    path = tmp_path / "params.yaml"
    text = edited(line, replacement)
    path.write_text(text if "mix_share: 0.5" not in text else text.replace("  mix_share: 0.0", ""))
    assert getattr(parameters.load(path).train, line.partition(":")[0]) == value


def test_the_original_recipe_has_none_of_what_came_later() -> None:
    official = parameters.load(ROOT / "presets/imagenette.yaml")
    train = official.train
    shares = ("jitter", "trivial", "erase", "mixup", "cutmix", "mix_share", "sam", "ema")
    assert {getattr(train, name) for name in (*shares, "label_smoothing")} == {0.0}
    assert (train.zero_init, train.flip, train.sizes) == (False, True, (224,))
    assert (train.optimizer, official.smooth) == ("sgd", False)


def test_sizes_that_are_null_follow_the_size_of_the_last_training_crops(changed: Any) -> None:
    own = parameters.load(ROOT / "presets/folder.yaml")
    assert own.train.view == (224, 256)
    small = changed(own.train, sizes=(32, 48), grow_at=(0.5,))
    assert small.view == (48, 55)  # 48 * 8 / 7 = 54.86
    assert changed(small, val_size=96).view == (96, 110)  # 109.71
    assert changed(small, val_size=96, val_resize=96).view == (96, 96)


def test_an_evaluation_of_no_size_is_as_the_network_was_validated(
    params: parameters.Params, changed: Any
) -> None:
    assert params.evaluate.view == (64, 64)
    assert changed(params.evaluate, size=None, resize=None).view is None


def test_look_trains_all_its_norms(params: parameters.Params) -> None:
    frozen = params.train.model_dump() | {"init": "imagenet", "freeze": "stem"}
    values = params.model_dump() | {"train": frozen}
    assert parameters.Params.model_validate(values).train.freeze == "stem"
    with pytest.raises(ValidationError, match="look trains all its norms"):
        parameters.Params.model_validate(values | {"attention": "look"})


@pytest.mark.parametrize(
    ("epochs", "until", "accepted"), [(4, 0.5, True), (4, 0.75, True), (4, 0.8, False)]
)
def test_an_attention_loss_needs_an_epoch_that_is_not_mixed(
    params: parameters.Params, epochs: int, until: float, accepted: bool
) -> None:
    mixed = {"epochs": epochs, "mixup": 0.2, "mix_share": 1.0, "mix_until": until}
    values = params.train.model_dump() | mixed
    parameters.Train.model_validate(values)
    values["attention_loss"] = 0.5
    if accepted:
        parameters.Train.model_validate(values)
        return
    with pytest.raises(ValidationError, match="batches that are not mixed"):
        parameters.Train.model_validate(values)
