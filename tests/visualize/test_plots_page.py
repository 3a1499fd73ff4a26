"""The page in which DVC draws plots: with Vega inside, so it draws without a network."""

import re
import runpy
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest
from dvc_render import VegaRenderer
from dvc_render.html import render_html

ROOT = Path(__file__).parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


@pytest.fixture
def template() -> Path:
    """The page that .dvc/config names."""
    config = ConfigParser()
    config.read(ROOT / ".dvc" / "config", encoding="utf-8")
    return ROOT / ".dvc" / config["plots"]["html_template"]


def drawn(folder: Path, template: Path) -> Path:
    """Two plots as DVC puts them into its page: one of dvc.yaml's, one of a table as it is."""
    points = [{"epoch": i, "loss": 1 / (1 + i), "rev": "workspace"} for i in range(3)]
    plots = [VegaRenderer(points, name, x="epoch", y="loss") for name in ("Loss", "plots/h.csv")]
    return Path(render_html(plots, folder / "index.html", html_template=str(template)))


def test_the_page_loads_nothing(template: Path, tmp_path: Path) -> None:
    source = drawn(tmp_path, template).read_text("utf-8")
    assert "vegaEmbed('#Loss'" in source
    without_vega = re.sub(r"<script>\n.*?\n</script>", "", source, flags=re.S)
    assert len(without_vega) < 9000 < len(source)
    assert not re.search(r"\bsrc=|href=.http|@import|url\(", without_vega)


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_plots_are_drawn_in_a_browser_and_a_table_without_a_description_is_not_shown(
    template: Path, tmp_path: Path
) -> None:
    flags = "--headless --no-sandbox --disable-gpu --no-first-run --dump-dom --disable-sync"
    quiet = "--disable-background-networking --disable-component-update --enable-logging=stderr"
    done = subprocess.run(
        [
            str(CHROMIUM),
            *f"{flags} {quiet} --virtual-time-budget=5000".split(),
            f"--user-data-dir={tmp_path / 'profile'}",
            drawn(tmp_path, template).as_uri(),
        ],
        capture_output=True,
        encoding="utf-8",
        check=True,
        timeout=120,
    )
    body = done.stdout.partition("\n<body>")[2]
    assert re.search(r'id="Loss" class="vega-embed[^>]*>.*?<(svg|canvas)', body, re.S)
    assert not re.search("CONSOLE.*(Uncaught|Failed|Error)", done.stderr)
    assert '[id^="plots_"][id$="_csv"] { display: none; }' in done.stdout


def test_its_vega_is_that_of_the_lock(template: Path) -> None:
    pytest.importorskip("vl_convert")
    made = runpy.run_path(str(template.with_suffix(".py")))["page"]()
    assert made == template.read_text("utf-8"), "run `make plots-page`"
