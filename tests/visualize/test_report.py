"""The page: valid, in one file, the same bytes; a missing value is never a number."""

import base64
import html
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from abn.project.results import Results
from abn.visualize import report, tables
from abn.visualize.overlay import Style
from abn.visualize.provenance import Provenance
from abn.visualize.report import data_uri, ramp
from abn.visualize.tiles import UNIT, colours, map_panels
from tests.visualize.test_figures import ARABIC, HEBREW, VIRIDIS, item, looking

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
VOID = {"meta", "link", "br", "img"}
MAPS = ["attention", "att_cam", "gradcam", "random", "centre", "oracle"]
SCORES = ["srg", "deletion", "auroc", "lift", "flip", "brand_new"]
GATES = [
    ("live", "Is it alive?", "gain ratio", 1.1, 1.25, 1.2, 1.3, "pass", None, None),
    (
        "causal",
        "Does it act?",
        "flips",
        0.02,
        0.05,
        0.01,
        0.09,
        "undecided",
        1350,
        "1,350 would do; SRG",
    ),
    ("faithful_centre", "Is it better?", "SRG", 0.0, -0.16, -0.25, -0.08, "fail", None, None),
    ("stable", "Is it stable?", "IoU", 0.5, None, None, None, "not measured", None, None),
    ("class_specific", "Classes?", "one map", None, None, None, None, "by design", None, None),
]
MAP_GATES = [
    ("attention", "live", 1.25, "pass"),
    ("attention", "faithful_centre", -0.16, "fail"),
    ("att_cam", "faithful_centre", 0.21, "pass"),
]
NOTHING = pd.DataFrame()


def results(**changes: Any) -> Results:
    """What the stages might have measured on two classes, with `changes`."""
    names = ("gate", "question", "measure", "threshold", "value", "low", "high", "outcome")
    names += ("images_needed", "note")
    rows = [(m, s, 0.5, 0.4, 0.6, 9, 0.7, None, 0.8) for m in MAPS for s in SCORES]
    columns = ["map", "score", "mean", "low", "high", "images"]
    columns += ["beats_random", "beats_centre", "of_oracle"]
    lines = {f"{m}_{way}": [0.0, 1.0] for m in MAPS for way in ("insertion", "deletion")}
    measured = Results(
        train={"epoch": 2},
        evaluate={"top1": 0.75, "loss": 0.5},
        explain={"verdict": "partly explains", "images": 9, "baseline_confidence": 0.1},
        history=pd.DataFrame({"epoch": [1, 2], "train_loss": [2.0, 1.0], "val_loss": [None, 1.5]}),
        confusion=pd.DataFrame({"actual": ["disc", "disc"], "predicted": ["disc", "ring"]}),
        per_class=pd.DataFrame({"class": ["disc"], "images": [2], "precision": [1.0]}).assign(
            recall=0.5, f1=0.6667
        ),
        calibration=pd.DataFrame({"confidence": [0.9], "accuracy": [0.5], "images": [2]}),
        maps=pd.DataFrame(rows, columns=columns),
        curves=pd.DataFrame({"fraction": [0.0, 1.0]} | lines),
        interventions=pd.DataFrame({"intervention": ["none", "zero"], "flips": [0.0, 0.31]}).assign(
            flips_low=0.2,
            flips_high=0.4,
            probability=-0.1,
            probability_low=None,
            probability_high=None,
            divergence=0.2,
            top1=0.9,
        ),
        gates=pd.DataFrame(GATES, columns=list(names)),
        map_gates=pd.DataFrame(MAP_GATES, columns=["map", "gate", "value", "outcome"]),
    )
    return measured._replace(**changes)


def page(measured: Results | None = None, classes: tuple[str, ...] = ("disc", "ring")) -> str:
    facts, checksums = {"Network": "resnet18"}, {"weights": "f" * 64}
    warnings = ["Mind the gap."]
    source = Provenance("resnet18", classes, facts, checksums, {"train.lr": "0.03"}, warnings)
    shown = [item(), item(low=0.75, srg=None, error=True)]
    return report.render(measured or results(), source, shown, 10, Style(), "attention")


def text(source: str) -> str:
    """The words of a page, without its markup."""
    body = re.sub(r"<style>.*?</style>", "", source, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


class Balance(HTMLParser):
    """Fails on a tag closed that is not open; collects open tags, ids and links."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, self.getpos()


def parsed(source: str) -> Balance:
    parser = Balance()
    parser.feed(source)
    parser.close()
    assert parser.open == []
    return parser


@pytest.mark.parametrize("classes", [("disc", "ring"), tuple(map(str, range(30)))])
def test_every_tag_is_closed_and_every_link_leads_to_a_place_in_the_page(
    classes: tuple[str, ...],
) -> None:
    parser = parsed(page(classes=classes))
    ids = [value for _, name, value in parser.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for tag, name, value in parser.attributes:
        if name == "href" and tag == "a":
            assert value.removeprefix("#") in ids
        elif name in ("src", "href"):
            assert value.startswith("data:")


def test_there_is_no_script_and_no_address_of_another_file() -> None:
    source = page()
    assert not any(part in source for part in ("<script", "http:", "https:", "@import"))
    assert source.count("url(") == source.count("url(#")


def test_every_picture_has_a_text_alternative() -> None:
    parser = parsed(page())
    images = [value for tag, name, value in parser.attributes if (tag, name) == ("img", "alt")]
    assert len(images) == page().count("<img ") == 3 + 5 and all(images)
    charts = [v for tag, name, v in parser.attributes if (tag, name) == ("svg", "aria-label")]
    assert page().count("<i>flat map</i>") == 1
    assert len(charts) == 4 and "Loss: training from 2 to 1; validation from 1.5 to 1.5" in charts


def test_the_same_values_give_the_same_bytes() -> None:
    assert page() == page()


def test_a_class_name_is_text_and_never_markup() -> None:
    evil = "<script>alert('x')</script>"
    table = pd.DataFrame({"actual": [evil], "predicted": [evil]})
    source = page(results(confusion=table), ("disc", evil))
    assert evil not in source and evil in html.unescape(source)
    parsed(source)


def test_names_that_run_from_right_to_left_keep_their_place_in_a_sentence() -> None:
    shown = item(error=True)
    shown = shown._replace(tile=shown.tile._replace(truth=ARABIC, prediction=HEBREW))
    source = Provenance("resnet18", (ARABIC, HEBREW), {}, {}, {}, [])
    whole = report.render(results(), source, [shown], 10, Style(), "attention")
    assert f"\u2068{ARABIC}\u2069 → \u2068{HEBREW}\u2069" in whole
    assert f"Att-CAM of the true class \u2068{ARABIC}\u2069, mean" in whole


def test_every_picture_of_the_gallery_names_its_file_as_text() -> None:
    shown = [item()._replace(file="val/<b>/7.png"), item(error=True)._replace(file="val/a/8.png")]
    source = Provenance("resnet18", ("disc", "ring"), {}, {}, {}, [])
    whole = report.render(results(), source, shown, 10, Style(), "attention")
    assert "val/&lt;b&gt;/7.png" in whole and "val/a/8.png" in whole


def test_the_first_sentence_is_the_verdict_and_its_reasons() -> None:
    words = text(page())
    assert "Partly. The attention map explains the decisions only in part" in words
    assert "it fails 1: “Is it better?”; 1 is undecided (about 1,350 images would decide)" in words
    assert "An official ABN: a resnet18, whose map weighs the features, tested on 9 val" in words
    assert "It names the right class of 75.0" in words
    for verdict, answer in (
        ("explains", "Yes, by these tests."),
        ("does not explain", "No, by these tests."),
        ("not measured", "Not measured."),
    ):
        assert answer in text(page(results(explain={"verdict": verdict})))
    assert "Mind the gap." in words


def test_the_map_to_show_is_named_first_and_marked_in_the_table_of_all_maps() -> None:
    best = page(results(explain={"verdict": "does not explain", "recommended": "att_cam"}))
    words = text(best)
    assert "Show Att-CAM instead: it passes 1 of the 1 tests measured for it. The pict" in words
    assert words.index("Show Att-CAM") < words.index("Is it alive?")
    assert "Test Attention map Att-CAM recommended Live pass 1.25 \N{EN DASH} Faith" in words
    assert "Faithful centre fail \N{MINUS SIGN}0.16 pass 0.21" in words
    assert best.count('class="best"') == 3 and 'class="best"' not in page()


def test_a_looking_networks_page_says_what_it_saw_and_what_if() -> None:
    source = Provenance("resnet18", ("disc", "ring"), {}, {}, {}, [], looks=True)
    shown = [looking(), looking(error=True)]
    whole = report.render(results(), source, shown, 10, Style("viridis"), "attention")
    parsed(whole)
    words = text(whole)
    assert "A resnet18, whose map dims the picture before the network decides" in words
    assert "In 1 of these 1 errors it had looked for another one." in words
    assert "1 of the 1 is then right" in words
    assert "Looking for disc, its probability goes from 20 % to 61 %" in words
    assert "class map range 7.3 logits" in words and "· gain ratio" not in words
    assert "whose colours are on one scale for all pictures" in words
    assert "The picture is shown under another map" in words
    assert "class map range" not in text(page()) and "· gain ratio" in text(page())


def test_a_test_is_asked_in_words_before_its_name_is_used() -> None:
    words = text(page()).lower()
    for gate, question, *_ in GATES:
        name = gate.replace("_", " ")
        assert words.index(question.lower()) <= words.index(f"{question.lower()} {name}")
    before = words[: words.index("is it alive? live")]
    assert not [name for name in ("causal", "faithful", "class specific") if name in before]


def test_the_first_picture_is_of_the_median_image_beside_the_answer() -> None:
    shown = [item()._replace(role=role) for role in ("best", "median", "worst")]
    source = Provenance("resnet18", ("disc", "ring"), {}, {}, {}, [])
    whole = report.render(results(), source, shown, 10, Style(), "attention")
    top = whole[: whole.index("<nav")]
    assert top.count("<img ") == 2 and "its class by the score" in text(top)
    image, overlay = re.findall(r'src="([^"]+)"', top)
    assert [image, overlay] == [data_uri(panel) for panel in map_panels(shown[1].tile, Style())[:2]]
    assert "<img" not in page()[: page().index("<nav")]  # no median there


def test_every_chart_names_both_its_axes() -> None:
    charts = re.findall(r"<svg.*?</svg>", page(), re.S)
    labels = [re.findall(r"<text[^>]*>([a-z][^<]+)</text>", chart) for chart in charts]
    expected = ["loss", "share correct", "probability of the class", "probability of the class"]
    assert [next(x for x in expected if x in each) for each in labels] == expected


def test_the_page_says_how_to_find_its_commits_and_holds_none() -> None:
    source = Provenance("resnet18", ("disc",), {}, {}, {}, [], search="git log -S abc -- dvc.lock")
    whole = report.render(results(), source, [], 10, Style(), "attention")
    assert "<code>git log -S abc -- dvc.lock</code>" in whole


def test_an_outcome_is_a_word_not_only_a_colour() -> None:
    words = text(page())
    for part in (
        "pass Is it alive? live 1.25 (1.2 to 1.3) gain ratio, threshold 1.1",
        "undecided Does it act? causal 1,350 would do; SRG.",
        "fail Is it better? faithful centre",
        "not measured Is it stable? stable not measured",
        "no, by design Classes? class specific",
        "see Att-CAM",
        "project’s own proposals",  # noqa: RUF001
    ):
        assert part in words


def test_accuracy_is_set_against_always_naming_the_most_frequent_class() -> None:
    unequal = results(evaluate={"top1": 0.9, "majority_share": 0.9, "balanced_accuracy": 0.5})
    words = text(page(unequal))
    assert "most frequent class gives a top-1 of 90.0" in words
    assert "balanced accuracy 50.0" in words


def test_with_five_classes_or_fewer_top5_is_left_out_and_the_page_says_so() -> None:
    five, six = (text(page(classes=tuple("abcdef"[:count]))) for count in (5, 6))
    assert "there is no top-5" in five and "top-5 not measured" not in five
    assert "there is no top-5" not in six and "top-5 not measured" in six


def test_missing_values_are_named() -> None:
    words = text(page(results(evaluate={"top1": 0.75})))
    assert "macro F1 not measured" in words
    assert "Not measured: Rank accuracy, Pointing, Pointing, tolerant, Energy, IoU" in words
    assert "· not scored ·" in words


def test_nothing_measured_at_all_is_still_a_page() -> None:
    maps = results().maps.iloc[:0]
    bare = Results({}, {}, {}, NOTHING, results().confusion, *[NOTHING] * 2, maps, *[NOTHING] * 4)
    source = page(bare)
    parsed(source)
    words = text(source)
    assert "Not measured. Whether the attention map explains the decisions was not" in words
    assert "Loss not measured" in words and "nan" not in words.lower().split()


def test_few_classes_get_a_matrix_and_many_the_pairs_confused_most() -> None:
    names = tuple(f"c{i}" for i in range(30))
    pairs = [(names[i], names[i + 1]) for i in range(20)] + [("c3", "c9")] * 5
    table = pd.DataFrame(pairs, columns=["actual", "predicted"])
    many = page(results(confusion=table), names)
    assert 'class="matrix"' in page() and 'class="matrix"' not in many
    rows = re.findall(r'<th scope="row">(c\d+)</th><td>(c\d+)</td><td>(\d+)</td>', many)
    assert rows[0] == ("c3", "c9", "5") and len(rows) == report.PAIRS


def decoded(uri: str) -> NDArray[np.uint8]:
    """The picture in a data URI, RGB."""
    content = base64.b64decode(uri.partition(",")[2])
    return np.asarray(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1])


def test_a_map_is_stored_without_loss_and_an_image_nearly() -> None:
    tile = item().tile
    image, _, cells = map(data_uri, map_panels(tile, Style()))
    assert cells.startswith("data:image/png;base64,")
    assert image.startswith("data:image/jpeg;base64,")
    assert np.array_equal(decoded(cells), colours(tile.attention, UNIT, 0, 1))
    assert np.abs(decoded(image).astype(int) - 90).max() < 3


def test_a_ramp_runs_from_the_first_colour_to_the_last() -> None:
    first, last = ("#{:02x}{:02x}{:02x}".format(*rgb) for rgb in VIRIDIS)
    assert ramp(UNIT).startswith(f"linear-gradient(to right, {first}")
    assert ramp(UNIT)[:-1].split(", ")[-1][:6] == last[:6]


WIDTH, DESKTOP = 360, 1265  # a small phone; a window of 1280 px with its scroll bar
PROBE = """<!DOCTYPE html><meta charset="utf-8"><body>
<iframe id="seen" src="report.html" style="width: WIDTHpx; height: 700px; border: 0"></iframe>
<script>
seen.onload = () => {
  const page = seen.contentDocument;
  for (const details of page.querySelectorAll("details")) details.open = true;
  document.body.dataset.width = page.documentElement.scrollWidth;
  const cut = [...page.querySelectorAll(".scroll")].filter(x => x.scrollWidth > x.clientWidth);
  document.body.dataset.cut = cut.map(x => x.getAttribute("aria-label")).join(", ");
};
</script>"""


def seen(folder: Path, source: str, wide: int = WIDTH) -> tuple[int, str, str]:
    """How wide Chromium lays `source` out in a window, the tables cut off, the console's lines."""
    (folder / "report.html").write_text(source, encoding="utf-8")
    (folder / "probe.html").write_text(PROBE.replace("WIDTH", str(wide)), encoding="utf-8")
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --dump-dom"
    quiet = "--disable-background-networking --disable-component-update --disable-sync"
    more = "--allow-file-access-from-files --hide-scrollbars --enable-logging=stderr --v=0"
    done = subprocess.run(
        [
            str(CHROMIUM),
            *f"{flags} {quiet} {more} --virtual-time-budget=5000".split(),
            f"--user-data-dir={folder / 'profile'}",
            (folder / "probe.html").as_uri(),
        ],
        capture_output=True,
        encoding="utf-8",
        check=True,
        timeout=120,
    )
    found = re.search(r'data-width="(\d+)" data-cut="([^"]*)"', done.stdout)
    assert found, done.stdout[-500:]
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return int(found[1]), found[2], console


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_on_a_phone_nothing_overflows_and_the_console_is_silent(tmp_path: Path) -> None:
    width, _, console = seen(tmp_path, page())
    assert (width, console) == (WIDTH, "")
    assert seen(tmp_path, page(classes=tuple("x" * 40 + str(i) for i in range(12))))[0] == WIDTH
    broken = page().replace(
        "</main>", '<p style="width: 500px">wide</p><script>x()</script></main>'
    )
    width, _, console = seen(tmp_path, broken)
    assert width > WIDTH and "x is not defined" in console


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_on_a_desktop_no_table_of_scores_is_cut_off(tmp_path: Path) -> None:
    names = [*tables.MAPS, *tables.CONTROLS, "centre_2x2", "oracle_2x2"]
    scores = [score for theme in tables.THEMES for score in theme]
    columns = ["map", "score", "mean", "low", "high", "images"]
    columns += ["beats_random", "beats_centre", "of_oracle"]
    rows = [(m, s, -0.51, -0.42, -0.63, 9, 1.0, 1.0, -0.82) for m in names for s in scores]
    whole = page(results(maps=pd.DataFrame(rows, columns=columns)))
    assert seen(tmp_path, whole, DESKTOP)[:2] == (DESKTOP, "")
