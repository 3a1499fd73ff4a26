"""The page of `abn serve` in a real browser: drop, see, brush, break it."""

import base64
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from PIL import Image
from playwright import sync_api as playwright

from abn.inference.server.app import Settings, create
from tests import toys
from tests.inference.test_server import huge_header, model

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
TOKEN = "a-token-for-the-tests"
DROP = """
([name, type, text]) => {
  const data = new DataTransfer();
  data.items.add(new File([Uint8Array.from(atob(text), (c) => c.charCodeAt(0))], name, { type }));
  document.body.dispatchEvent(new DragEvent("drop", { bubbles: true, dataTransfer: data }));
}
"""
WIDTHS = (1280, 390)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A real server on loopback, with a token."""
    ours = model()
    ours.unlike_below = 1e9  # every image is
    config = uvicorn.Config(create(ours, Settings(token=TOKEN)), log_level="error")
    server, listener = uvicorn.Server(config), socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    server.should_exit = True
    thread.join(30)
    listener.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page with its token given; a script that fails, fails the test."""
    page, errors = browser.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.fill("#token", TOKEN)
    page.click("#login button")
    page.wait_for_selector("#about:has-text('4 classes')")
    yield page
    assert errors == []
    page.close()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def answered(page: Any, expected: str) -> None:
    page.wait_for_function(
        "text => document.querySelector('#label').textContent === text", arg=expected
    )


@pytest.mark.parametrize("width", WIDTHS)
def test_drop_see_and_brush(page: Any, photo: Path, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    expected = model().predict(photo)
    page.evaluate(DROP, ["photo.png", "image/png", base64.b64encode(photo.read_bytes()).decode()])
    answered(page, expected.label)
    first = page.locator("#perception tr").first
    assert first.inner_text().split() == [
        expected.label,
        f"{100 * expected.classes[expected.label]:.1f}",
        "%",
    ]
    assert page.locator("#attention tr").count() == 4
    assert page.locator("#unlike").is_visible()
    assert page.locator("#seen").evaluate("image => image.naturalWidth") == 32
    assert page.evaluate("document.documentElement.scrollWidth") == width

    page.click("#hide")
    page.locator("#size").fill("4")
    page.locator("#photo").scroll_into_view_if_needed()
    box = page.locator("#photo").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.up()
    page.wait_for_selector("#state:has-text('Under your map')")
    painted = np.array(page.evaluate("current.cells"), np.float32)
    assert painted[1:3, 1:3].max() < expected.map[1:3, 1:3].max()
    under = model().decide(photo, painted)
    page.wait_for_function("() => current.answer.edited && !busy")
    shown = {
        each["name"]: each["confidence"] for each in page.evaluate("current.answer.perception")
    }
    assert shown == pytest.approx(under.classes, abs=1e-5)

    assert page.locator("#unlike").is_visible()  # it is said of the image, not of the map

    page.click("#reset")
    page.wait_for_selector("#state:has-text('own map')")
    assert first.inner_text().split()[0] == expected.label
    page.evaluate("current.own.unlike = null; tell()")  # as of an older checkpoint
    assert not page.locator("#unlike").is_visible()


def test_the_map_is_edited_with_the_keyboard_alone(page: Any, photo: Path) -> None:
    page.set_input_files("#pick", photo)
    page.wait_for_selector("#answer:not([hidden])")
    page.click("#show")
    page.focus("#photo")
    for key in ("ArrowRight", "ArrowDown", "Space"):
        page.keyboard.press(key)
    assert page.evaluate("current.cells[1][1]") == 1
    page.wait_for_function("() => current.answer.edited && !busy")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"no image", "not an image of the kinds"),
        (huge_header(20_000, 10_000), "200000000 pixels"),
        (bytes(20_000_001), "over 20,000,000"),
    ],
    ids=["text", "200 megapixels", "20 MB"],
)
def test_what_is_no_image_is_refused_in_words_and_the_next_one_is_answered(
    page: Any, photo: Path, tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / "bad.png").write_bytes(content)
    page.set_input_files("#pick", tmp_path / "bad.png")
    page.wait_for_selector(f"#error:has-text('{reason}')")
    assert not page.is_visible("#answer")
    page.set_input_files("#pick", photo)
    answered(page, model().predict(photo).label)
    assert not page.is_visible("#error")


def test_of_ten_at_once_each_has_its_answer_or_its_reason(page: Any, tmp_path: Path) -> None:
    files = []
    for i, pixels in enumerate(toys.split(9).images.numpy()):
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(pixels).save(files[-1])
    files.append(tmp_path / "text.png")
    files[-1].write_text("no image")
    page.set_input_files("#pick", files)
    page.wait_for_function(
        "() => [...document.querySelectorAll('#files small')].every((x) => x.textContent !== '…')"
    )
    said = page.locator("#files small").all_inner_texts()
    assert said[:9] == [prediction.label for prediction in model().predict(files[:9])]
    assert said[9].startswith("not an image")
    page.locator("#files button").nth(3).click()
    answered(page, said[3])
