"""Every letter that a font on the machine has is drawn; what none has comes with a number."""

from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib.figure import Figure
from numpy.typing import NDArray

from abn.visualize import fonts

ENOUGH = ("disc", "Käfer", "ring → plus")


def make(path: Path, letters: str, side: int = 800) -> Path:
    """A font named like its file, with a square of `side` / 1000 of the size for each letter."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, side), (side, side), (side, 0)):
        pen.lineTo(corner)
    pen.closePath()
    names = {ord(letter): f"g{ord(letter)}" for letter in letters}
    glyphs = [".notdef", *names.values()]
    builder = FontBuilder(1000)
    builder.setupGlyphOrder(glyphs)
    builder.setupCharacterMap(names)
    builder.setupGlyf(dict.fromkeys(glyphs, pen.glyph()))
    builder.setupHorizontalMetrics(dict.fromkeys(glyphs, (1000, 0)))
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": path.stem, "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(path)
    return path


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """`install(*paths)`: these are the fonts of the machine. Matplotlib forgets them in the end."""
    manager = fonts.font_manager
    kept = list(manager.fontManager.ttflist)

    def only(*paths: Path) -> None:
        monkeypatch.setattr(manager, "findSystemFonts", lambda: [str(path) for path in paths])

    yield only
    manager.fontManager.ttflist[:] = kept


def picture(text: str) -> NDArray[Any]:
    """`text` drawn in black, every warning an error."""
    figure = Figure((3, 1), 50)
    figure.text(0.1, 0.3, text, fontsize=20)
    file = BytesIO()
    figure.savefig(file, format="png")
    file.seek(0)
    return matplotlib.image.imread(file)[..., 0]


def test_names_that_matplotlibs_own_font_has_need_no_other(install, monkeypatch) -> None:
    monkeypatch.setattr(fonts, "_installed", lambda: pytest.fail("looked for"))
    with fonts.drawing(ENOUGH) as names:
        assert names == ENOUGH and matplotlib.rcParams["font.family"] == ["DejaVu Sans"]


def test_a_letter_is_drawn_in_a_font_of_the_machine_that_has_it(install, tmp_path) -> None:
    install(make(tmp_path / "Square.ttf", "甲"), make(tmp_path / "Other.ttf", "乙"))
    with fonts.drawing(["甲", "disc"]) as names:
        assert names == ("甲", "disc")
        assert matplotlib.rcParams["font.family"] == ["DejaVu Sans", "Square"]
        dark = picture("甲") < 0.5
    rows, columns = np.flatnonzero(dark.any(1)), np.flatnonzero(dark.any(0))
    square = dark[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    assert square.all() and square.shape == pytest.approx((11, 11), abs=1)  # 0.8 of 20 pt at 50 dpi


def test_a_name_of_two_scripts_gets_two_fonts_and_the_fullest_comes_first(
    install, tmp_path
) -> None:
    some, more = make(tmp_path / "A.ttf", "甲"), make(tmp_path / "B.ttf", "甲乙")
    install(some, more, make(tmp_path / "C.ttf", "丙"))
    with fonts.drawing(["甲乙丙"]) as names:
        assert names == ("甲乙丙",)
        assert matplotlib.rcParams["font.family"] == ["DejaVu Sans", "B", "C"]


def test_what_no_font_can_write_has_its_number_and_is_said_once(install, tmp_path, capsys) -> None:
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"not a font")
    install(broken, make(tmp_path / "LastResort.ttf", "甲乙"))  # which has a box for each letter
    with fonts.drawing(["disc", "甲", "乙"]) as names:
        assert names == ("disc", "#1 甲", "#2 乙")
        picture(names[1])  # without matplotlib's warning
    error = capsys.readouterr().err
    assert error.count("pictures: no font on this machine can write #1 甲, #2 乙: see") == 1


def test_a_long_list_of_such_names_is_counted(install, capsys) -> None:
    install()
    with fonts.drawing([chr(0x7532 + i) for i in range(25)]):
        pass
    assert "and 15 more classes" in capsys.readouterr().err


def test_plain_fonts_without_serifs_come_first_in_an_order_that_is_fixed(install) -> None:
    files = [Path(f"/f/{name}.ttf") for name in ("ZSerif-Regular", "ASans-Bold", "BSans-Regular")]
    install(*files)
    found = [Path(path).stem for path in fonts._installed()]
    assert found == ["BSans-Regular", "ASans-Bold", "ZSerif-Regular"]


def test_a_users_own_settings_of_matplotlib_draw_nothing_else() -> None:
    with matplotlib.rc_context({"font.size": 40, "figure.facecolor": "red"}):
        with fonts.drawing(ENOUGH):
            assert matplotlib.rcParams["font.size"] == 10
        assert matplotlib.rcParams["font.size"] == 40
