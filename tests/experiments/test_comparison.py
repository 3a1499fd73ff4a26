"""Seeds become one line, and differences are paired; the values are computed by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from abn.experiments.comparison import Comparison, compare
from abn.experiments.difference import ALL, NONE
from abn.experiments.snapshots import Snapshot, read
from abn.explain.statistics import estimate
from abn.project import paths
from tests.experiments.recorded import git, read_lock, record, run, write_lock


def compared(*names: str) -> Comparison:
    return compare(read(names))


def keep(tag: str, images: str | None) -> None:
    """Commit and tag the run in the workspace; explain has `images` as a param, or never ran."""
    stages = read_lock()
    stages["explain"]["params"]["params.yaml"] = {"explain": {"images": images}}
    if images is None:
        for out in stages.pop("explain")["outs"]:
            Path(out["path"]).unlink()
    write_lock(stages)
    git("add", "-A")
    git("commit", "-qm", tag)
    git("tag", tag)


def without(snapshot: Snapshot, path: Path) -> Snapshot:
    return replace(snapshot, files={p: text for p, text in snapshot.files.items() if p != path})


def test_trainings_that_differ_only_in_their_seed_are_one_configuration() -> None:
    for seed, right in enumerate((20, 24, 28), 1):
        record(
            f"sweep-{seed}", seed=seed, right=right, verdict="explains" if seed > 1 else "undecided"
        )
    (only,) = compared("sweep").configurations
    mean, sd, seeds = only.metrics["evaluate.top1"]
    assert (round(mean, 9), round(sd or 0, 9), seeds) == (0.6, 0.1, 3)
    assert list(only.seeds) == ["1", "2", "3"]
    assert only.verdicts == {"explains": 2, "undecided": 1}


def test_maps_are_stable_between_seeds_as_far_as_their_top_cells_overlap() -> None:
    """Images 5 and 7 are in all: IoU of {0, 1} with {0, 1} and {1, 2}, then {1, 2} with itself."""
    record("sweep-1", seed=1, cells={3: "x3", 5: "x3", 7: "x3"})
    record("sweep-2", seed=2, cells={5: "x3", 7: "x6", 9: "x3"})
    record("sweep-3", seed=3, cells={5: "x6", 7: "x6"})
    (only,) = compared("sweep").configurations
    pairs = [(1 + 1 / 3) / 2, (1 / 3 + 1 / 3) / 2, (1 / 3 + 1) / 2]
    assert only.metrics["explain.stable_between_seeds"] == only.stable
    assert only.stable == (pytest.approx(np.mean(pairs)), pytest.approx(np.std(pairs, ddof=1)), 3)
    assert only.shared == 2


def test_one_seed_or_older_results_say_nothing_of_stable() -> None:
    record("a", seed=1, cells={5: "x3"})
    record("b", seed=2)
    assert compared("a", "b").configurations[0].stable is None
    record("b", seed=2, cells={6: "x3"})  # no image that both have
    assert compared("a", "b").configurations[0].stable is None
    record("b", seed=2, cells={5: "x6"})
    assert compared("a", "b").configurations[0].stable == (pytest.approx(1 / 3), None, 2)


def test_one_training_has_no_standard_deviation() -> None:
    (only,) = compared("HEAD").configurations
    assert only.metrics["evaluate.top1"] == (0.75, None, 1)


def test_a_configuration_is_called_by_what_is_special_about_it() -> None:
    record("a", arch="resnet34")
    record("b", arch="resnet34", seed=2)
    found = compared("HEAD", "a", "b")
    assert [each.label for each in found.configurations] == ["arch=resnet18", "arch=resnet34"]
    assert found.differing == {"arch": ["resnet18", "resnet34"]}


def test_other_code_is_another_configuration_even_with_the_same_params() -> None:
    record("a", code="c2", seed=2)
    found = compared("HEAD", "a")
    assert [each.label for each in found.configurations] == ["HEAD", "a"]
    assert found.differing == {"abn/training": ["c1", "c2"]}


def test_a_stage_that_never_ran_is_a_note_and_no_other_configuration() -> None:
    """Of seeds 1, 2 and 3, explain ran in the first two, with a param of its own."""
    for seed in (1, 2, 3):
        run(seed=seed)
        keep(f"a-{seed}", images=None if seed == 3 else "20")
    for names in (["a-1", "a-2", "a-3"], ["a-3", "a-2", "a-1"]):
        found = compared(*names)
        (only,) = found.configurations
        assert sorted(only.seeds) == ["1", "2", "3"] and only.params["explain.images"] == "20"
        assert found.differing == {} and found.notes == ("a-3: explain was never run",)


def test_a_stage_that_never_ran_does_not_differ_beside_another_network() -> None:
    run()
    keep("a", images="20")
    run(arch="resnet34")
    keep("b", images=None)
    assert compared("a", "b").differing == {"arch": ["resnet18", "resnet34"]}


def test_a_training_without_a_stage_stands_alone_where_the_others_disagree_on_it() -> None:
    for name, images in (("a", "20"), ("b", None), ("c", "30")):
        run(seed=ord(name))
        keep(name, images=images)
    for names in (["a", "b", "c"], ["c", "b", "a"]):
        found = compared(*names)
        assert [each.trainings[0].name for each in found.configurations] == names
        assert sorted(found.differing["explain.images"]) == ["-", "20", "30"]


def test_a_training_that_occurs_twice_counts_once() -> None:
    record("a", right=31)
    found = compared("HEAD", "main", "a")
    assert [len(each.trainings) for each in found.configurations] == [1]
    same, other = found.notes
    assert same == "main: the configuration and seed of HEAD; counted once"
    assert other.startswith("a: the configuration and seed of HEAD but other results")


def test_two_experiments_of_one_name_are_called_by_their_commits() -> None:
    first = record("try")
    git("commit", "-qm", "another baseline", "--allow-empty")
    second = record("try", when=1)
    found = compared("try")
    one, other = (f"try ({commit[:7]})" for commit in (first, second))
    (label,), (note,) = [each.label for each in found.configurations], found.notes
    assert {label, note.partition(":")[0]} == {one, other}
    assert note.endswith(f": the configuration and seed of {label}; counted once")


def test_of_a_training_that_occurs_twice_the_one_with_more_results_counts() -> None:
    record("a")
    head, whole = read(["HEAD", "a"])
    for poor in (without(head, paths.EVALUATE_METRICS), without(head, paths.EXPLAIN_METRICS)):
        for order in ([poor, whole], [whole, poor]):
            found = compare(order)
            assert found.configurations[0].trainings == (whole,)
            assert found.notes == ("HEAD: the configuration and seed of a; counted once",)


def test_another_processor_or_thread_count_is_one_line() -> None:
    record("sweep-1", seed=2, device="CPU, 1 thread")
    record("sweep-2", seed=3, device="CPU, 1 thread")
    assert compared("sweep").notes == ()
    (note,) = compared("HEAD", "sweep").notes
    assert note.endswith(": CPU, 2 threads (HEAD); CPU, 1 thread (sweep-1, sweep-2)")
    assert note.startswith("trained on different processors or thread counts")


def test_a_difference_is_paired_over_the_images_of_one_seed() -> None:
    """30 and 36 of 40 are right: on six images the second alone is, on none the first alone."""
    record("a", arch="resnet34", right=36)
    found = compared("HEAD", "a")
    more = found.differences(found.configurations[1])["evaluate.top1"]
    student = 2.0227 * (0.15 * 0.85 * 40 / 39) ** 0.5 / 40**0.5
    assert more.mean == pytest.approx(0.15) and more.covers == "images"
    assert more.low is not None and more.high is not None
    assert more.low <= 0.15 - student + 1e-4 and more.high >= 0.15 + student - 1e-4
    assert more.low > 0  # unpaired, the interval of this difference holds zero


def test_a_difference_over_two_seeds_covers_them_too() -> None:
    for seed, (right, better) in enumerate(((30, 36), (28, 30)), 1):
        record(f"a-{seed}", seed=seed, right=right)
        record(f"b-{seed}", seed=seed, right=better, arch="resnet34")
    found = compared("a", "b")
    more = found.differences(found.configurations[1])["evaluate.top1"]
    assert more.mean == pytest.approx(0.1) and more.covers == "images and seeds"
    assert more.low is not None and more.low < 0.1 - 0.05  # half the difference between the seeds


def test_on_other_data_only_seeds_are_paired() -> None:
    """Differences of 0.1 and 0.2: their mean is 0.15, their standard error 0.05."""
    for seed, better in ((1, 24), (2, 28)):
        record(f"a-{seed}", seed=seed, right=20)
        record(f"b-{seed}", seed=seed, right=better, data="d2")
    found = compared("a", "b")
    more = found.differences(found.configurations[1])["evaluate.top1"]
    reach = 12.7062 * 0.05  # Student's t for two values
    assert more.covers == "seeds"
    assert (more.mean, more.low, more.high) == pytest.approx(
        (0.15, 0.15 - reach, 0.15 + reach), 1e-4
    )


def test_one_seed_on_other_data_has_a_difference_and_no_interval() -> None:
    record("a", right=36, data="d2")
    found = compared("HEAD", "a")
    more = found.differences(found.configurations[1])["evaluate.top1"]
    assert more == (pytest.approx(0.15), None, None, "", ALL)


def test_where_some_seeds_are_shared_the_difference_says_over_how_many() -> None:
    """Seed 3 has 32 and 26 of 40 right: 0.15 less, although the mean of all rises by 0.158."""
    for seed, right in enumerate((24, 28, 32), 1):
        record(f"a-{seed}", seed=seed, right=right)
    for seed, right in enumerate((26, 37, 40), 3):
        record(f"b-{seed}", seed=seed, right=right, arch="resnet34")
    found = compared("a", "b")
    more = found.differences(found.configurations[1])["evaluate.top1"]
    assert more.mean == pytest.approx(-0.15) and more.covers == "images"
    assert more.paired == "1 of 3 seeds"


def test_a_seed_that_was_not_measured_makes_no_pair() -> None:
    for seed in (1, 2):
        record(f"a-{seed}", seed=seed, right=30)
        record(f"b-{seed}", seed=seed, right=34, arch="resnet34")
    *others, last = read(["a", "b"])
    found = compare([*others, without(last, paths.EVALUATE_METRICS)])
    more = found.differences(found.configurations[1])["evaluate.top1"]
    assert more.paired == "1 of 2 seeds" and more.covers == "images"


def test_where_no_seed_is_shared_the_means_over_all_trainings_are_compared() -> None:
    """0.6, 0.7 and 0.8 against 0.9 and 0.95: their variances are 0.01 and 0.00125.

    The squared standard error is 0.01 / 3 + 0.00125 / 2, Welch's degrees of freedom are 2.635, for
    which Student's t is 3.44694.
    """
    for seed, right in enumerate((24, 28, 32), 1):
        record(f"a-{seed}", seed=seed, right=right)
    for seed, right in enumerate((36, 38), 4):
        record(f"b-{seed}", seed=seed, right=right, arch="resnet34")
    found = compared("a", "b")
    more = found.differences(found.configurations[1])["evaluate.top1"]
    reach = 3.44694 * (0.01 / 3 + 0.00125 / 2) ** 0.5
    assert (more.covers, more.paired) == ("seeds", NONE)
    assert (more.mean, more.low, more.high) == pytest.approx(
        (0.225, 0.225 - reach, 0.225 + reach), 1e-4
    )


def test_two_trainings_of_other_seeds_have_a_difference_and_no_interval() -> None:
    record("a", right=36, seed=2, arch="resnet34")
    found = compared("HEAD", "a")
    more = found.differences(found.configurations[1])["evaluate.top1"]
    assert more == (pytest.approx(0.15), None, None, "", NONE)


def test_the_same_answers_give_no_interval_of_width_zero() -> None:
    record("a", arch="resnet34")
    found = compared("HEAD", "a")
    assert found.differences(found.configurations[1])["evaluate.top1"] == (0.0, None, None, "", ALL)


def test_the_first_is_not_compared_with_itself() -> None:
    found = compared("HEAD")
    assert found.differences(found.configurations[0]) == {}


def test_gates_are_kept_for_each_training() -> None:
    for seed in (1, 2):
        record(f"a-{seed}", seed=seed, srg=seed)
    (only,) = compared("a").configurations
    assert [row["value"] for row in only.gates()["live"]] == [1, 2]


def test_the_interval_over_images_is_that_of_a_paired_bootstrap() -> None:
    """The formula draws nothing, and is also true with few images; with many they agree."""
    random = np.random.default_rng(0)
    changes = random.choice([-1.0, 0.0, 1.0], 600, p=[0.05, 0.85, 0.1])
    found = estimate(torch.tensor(changes))
    drawn = stats.bootstrap((changes,), np.mean, n_resamples=4000, rng=random).confidence_interval
    assert found is not None
    assert (found.low, found.high) == pytest.approx((drawn.low, drawn.high), abs=0.003)
