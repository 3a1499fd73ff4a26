"""A comparison as text: for people, for pull requests, for programs."""

import argparse
import csv
import io
import json
from dataclasses import replace

import pytest

from abn.cli import compare as verb
from abn.experiments import page, texts
from abn.experiments.comparison import Comparison, compare
from abn.experiments.configuration import Summary
from abn.experiments.difference import ALL, Difference
from abn.experiments.snapshots import read
from abn.project import paths
from abn.runtime.errors import DataError, ParamsError
from tests.experiments.recorded import git, record


@pytest.fixture
def sweep() -> Comparison:
    """Two networks, of which the second is better by 0.15, with two seeds each."""
    for seed in (1, 2):
        record(f"a-{seed}", seed=seed, right=28 + 2 * seed)
        record(f"b-{seed}", seed=seed, right=34 + 2 * seed, arch="resnet34", srg=0.5)
    return compare(read(["a", "b"]))


def options(*names: str, **given: object) -> argparse.Namespace:
    default = {"md": False, "json": False, "csv": False, "html": None, "metric": []}
    return argparse.Namespace(names=list(names), **default | given)


def test_a_value_and_a_difference_are_written_with_three_digits() -> None:
    assert texts.value(Summary(0.98765, 0.0042, 3)) == "0.988 ± 0.004"
    assert texts.value(Summary(0.98765, None, 1)) == "0.988"
    assert texts.value(None) == "not measured"
    assert texts.value(Summary(0.98765, None, 1), 1) == "0.988"
    more = Difference(0.012, 0.003, 0.021, "images", ALL)
    assert texts.change(more) == "+0.012 (0.003 to 0.021) images"
    more = Difference(-0.012, None, None, "", ALL)
    assert texts.change(more) == "−0.012 no interval"  # noqa: RUF001
    more = Difference(0.012, 0.003, 0.021, "images", "1 of 3 seeds")
    assert texts.change(more) == "+0.012 (0.003 to 0.021) images (paired: 1 of 3 seeds)"


def test_the_table_has_a_line_for_each_configuration(sweep: Comparison) -> None:
    lines = texts.console(sweep, []).splitlines()
    assert lines[0] == "arch=resnet34 against arch=resnet18"
    (first,) = [line for line in lines if line.startswith("arch=resnet18")]
    assert "1, 2" in first and "0.775 ± 0.035" in first and "explains 2" in first
    assert any("+0.150" in line and "+0.250" in line for line in lines)
    assert any("images and seeds" in line for line in lines)
    assert max(len(line) for line in lines if line != texts.LEGEND) < 120  # fits a terminal
    assert any(line.split() == ["arch", "resnet18", "resnet34"] for line in lines)


def test_a_mean_over_fewer_trainings_than_the_line_has_says_over_how_many() -> None:
    for seed, right in enumerate((24, 28, 32, 36), 1):
        record(f"a-{seed}", seed=seed, right=right)
    *others, last = read(["a"])
    files = {path: text for path, text in last.files.items() if path != paths.EVALUATE_METRICS}
    found = compare([*others, replace(last, files=files)])
    (line,) = [row for row in texts.console(found, []).splitlines() if "1, 2, 3, 4" in row]
    assert "0.700 ± 0.100 (3 of 4 seeds)" in line and "0.250 ± 0.000  " in line
    assert "<td>0.700 ± 0.100 (3 of 4 seeds)</td>" in page.render(found, [])


def test_a_row_says_how_stable_the_maps_are_between_seeds() -> None:
    record("a-1", seed=1, cells={5: "x3"})
    record("a-2", seed=2, cells={5: "x6"})
    lines = texts.console(compare(read(["a"])), []).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("Stable between seeds"))
    assert lines[at + 2].split() == ["a-1", "2", "1", "0.333"]
    assert "Stable" not in texts.console(compare(read(["HEAD", "main"])), [])


def test_long_values_that_differ_are_cut_so_that_it_is_seen() -> None:
    same = "starts/" + 60 * "x"
    first, second = texts.cut([f"{same}A.safetensors", f"{same}B.safetensors"])
    assert first == "starts/xx…xxxxxxxxxA.safetensors"
    assert second == "starts/xx…xxxxxxxxxB.safetensors"
    assert texts.cut(["short", "-"]) == ["short", "-"]


@pytest.mark.parametrize("others", ([], ["-"], ["y" * 90]))
def test_values_that_differ_never_look_alike(others: list[str]) -> None:
    """Beside a third that shares nothing with them, two differ where the cut would be."""
    values = [f"{'x' * 70}A{'x' * 70}", f"{'x' * 70}B{'x' * 70}", *others]
    assert len(set(texts.cut(values))) == len(values)


def test_what_differs_between_many_configurations_is_said_to_be_in_json() -> None:
    for number in range(1, 10):
        record(f"a-{number}", lr=number / 10)
    found = compare(read(["a"]))
    text = texts.console(found, [])
    assert "What differs between more than 8 configurations is in `--json` and `--html`." in text
    few = replace(found, configurations=found.configurations[:8])
    assert "What differs    " in texts.console(few, [])


def test_columns_can_be_chosen(sweep: Comparison) -> None:
    heading = texts.console(sweep, ["train.val_loss"]).splitlines()[2]
    assert heading.split() == ["Configuration", "Seeds", "train.val_loss", "Verdict"]


def test_markdown_keeps_its_columns_whatever_a_name_holds() -> None:
    git("branch", "a|b")
    text = texts.markdown(compare(read(["a|b", "main"])), [])
    rows = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1 and any("ab" in line for line in rows)


def test_markdown_shows_params_and_names_as_they_are() -> None:
    for name in ("__x__", "__y__"):
        record(name, arch="<script>a&b</script>\n*c* `d` | [e](f)")
    text = texts.markdown(compare(read(["HEAD", "__x__", "__y__"])), [])
    shown = r"\<script\>a\&b\</script\><br>\*c\* \`d\` \| \[e\](f)"
    assert text.startswith(f"### arch={shown} against arch=resnet18\n")
    assert f"| arch={shown} | 1 " in text and f"| resnet18        | {shown} " in text
    assert r"- \_\_y\_\_: the configuration and seed of \_\_x\_\_; counted once" in text


def test_json_has_every_number_and_where_it_is_from(sweep: Comparison) -> None:
    found = json.loads(texts.as_json(sweep))
    first, second = found["configurations"]
    assert first["metrics"]["evaluate.top1"] == {"mean": 0.775, "sd": 0.035355, "seeds": 2}
    more = second["metrics"]["explain.srg"]["difference"]
    assert (more["mean"], more["paired"]) == (0.25, "all seeds")
    assert [each["name"] for each in second["trainings"]] == ["b-1", "b-2"]
    assert second["params"]["arch"] == "resnet34"


def test_csv_has_a_row_for_each_configuration_and_metric(sweep: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(texts.as_csv(sweep))))
    (row,) = [r for r in rows if r["metric"] == "evaluate.top1" and "34" in r["configuration"]]
    assert (row["mean"], row["seeds"], row["difference"]) == ("0.925", "2", "0.15")
    assert (row["covers"], row["paired"]) == ("images and seeds", "all seeds")
    assert float(row["low"]) < 0.15 < float(row["high"])


@pytest.mark.parametrize("form", ["md", "json", "csv"])
def test_the_verb_prints_the_same_bytes_twice(
    form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    record("a", arch="resnet34")
    assert verb.run(options(**{form: True})) == 0
    first = capsys.readouterr().out
    verb.run(options(**{form: True}))
    assert capsys.readouterr().out == first and "resnet34" in first


def test_what_is_not_there_is_one_line() -> None:
    with pytest.raises(ParamsError, match="no training has it; --metric evaluate"):
        verb.run(options("HEAD", metric=["evaluate.top9"]))
    git("rm", "-q", "--cached", "dvc.lock")
    git("commit", "-qm", "no training")
    with pytest.raises(DataError, match="no training is recorded"):
        verb.run(options("HEAD", "HEAD"))
