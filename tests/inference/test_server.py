"""The API of `abn serve`: what it answers, what it refuses, and what it says of itself."""

import base64
import io
import struct
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from abn.inference.predictor import Predictor
from abn.inference.server.app import Settings, create
from tests import toys

BINARY = {"Content-Type": "application/octet-stream"}
TOKEN = "a-token-for-the-tests"


def model(attention: str = "look") -> Predictor:
    return Predictor(toys.network(attention=attention), toys.NAMES, 32, 32, toys.CPU, canvas=32)


def png(pixels: np.ndarray | None = None) -> bytes:
    file = io.BytesIO()
    whole = toys.split(1).images[0].numpy() if pixels is None else pixels
    Image.fromarray(whole).save(file, "PNG")
    return file.getvalue()


def huge_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has this many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def edited(image: bytes, attention: object) -> dict[str, object]:
    return {"image": base64.b64encode(image).decode(), "map": attention}


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(create(model(), Settings(max_bytes=9_000, max_pixels=10_000))) as client:
        yield client


def test_the_answer_is_that_of_predict(client: TestClient) -> None:
    wide = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    expected = model().predict(png(wide))
    answer = client.post("/predict?top=3", content=png(wide), headers=BINARY).json()
    assert answer["label"] == expected.label and not answer["edited"]
    for branch, of in (
        ("perception", expected.classes),
        ("attention", expected.attention_confidences),
    ):
        best = list(of.items())[:3]
        assert [each["name"] for each in answer[branch]] == [name for name, _ in best]
        shares = [each["confidence"] for each in answer[branch]]
        assert shares == pytest.approx([share for _, share in best], abs=1e-6)
    assert np.array(answer["map"]) == pytest.approx(expected.map, abs=1e-6)
    assert (answer["width"], answer["height"]) == (60, 40)
    assert answer["region"] == {"top": 0, "left": 10, "height": 40, "width": 40}
    assert answer["view_png"] is answer["seen_png"] is None
    assert answer["energy"] == pytest.approx(expected.energy) and answer["unlike"] is None


def test_an_answer_says_whether_the_image_is_unlike_the_training_data() -> None:
    ours = model()
    ours.unlike_below = 1e9
    with TestClient(create(ours, Settings())) as client:
        answer = client.post("/predict", content=png(), headers=BINARY).json()
        assert answer["unlike"] is True
        assert client.post("/predict", json=edited(png(), FOUR)).json()["unlike"] is None


def test_the_map_is_a_picture_of_its_cells_too(client: TestClient) -> None:
    answer = client.post("/predict", content=png(), headers=BINARY).json()
    drawn = np.array(Image.open(io.BytesIO(base64.b64decode(answer["map_png"]))))
    np.testing.assert_array_equal(drawn, np.rint(np.array(answer["map"], np.float32) * 255))


def test_under_a_map_of_ones_look_decides_on_the_whole_view_and_of_zeros_on_the_mean(
    client: TestClient,
) -> None:
    def seen(value: float) -> np.ndarray:
        message = edited(png(), np.full((4, 4), value).tolist())
        answer = client.post("/predict?pictures=1", json=message).json()
        assert answer["edited"] and answer["map"] == np.full((4, 4), value).tolist()
        pictures = (answer["view_png"], answer["seen_png"])
        whole, left = (np.array(Image.open(io.BytesIO(base64.b64decode(p)))) for p in pictures)
        np.testing.assert_array_equal(whole, toys.split(1).images[0].numpy())
        return left

    np.testing.assert_array_equal(seen(1.0), toys.split(1).images[0].numpy())
    assert (seen(0.0) == (124, 116, 104)).all()  # 255 times ImageNet's mean


def test_the_answer_under_a_map_is_that_of_decide(client: TestClient) -> None:
    attention = np.random.default_rng(1).random((4, 4), np.float32)
    expected = model().decide(png(), attention)
    answer = client.post("/predict", json=edited(png(), attention.tolist())).json()
    shares = {each["name"]: each["confidence"] for each in answer["perception"]}
    assert shares == pytest.approx(expected.classes, abs=1e-6)
    own = client.post("/predict", json=edited(png(), None)).json()
    assert not own["edited"] and own["perception"] != answer["perception"]
    assert own["attention"] == answer["attention"]


def test_a_residual_network_has_no_picture_of_what_it_decided_on() -> None:
    with TestClient(create(model("residual"), Settings())) as client:
        answer = client.post("/predict?pictures=1", content=png(), headers=BINARY).json()
        assert answer["view_png"] and answer["seen_png"] is None
        assert client.get("/model").json()["attention"] == "residual"


FOUR = np.ones((4, 4)).tolist()


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        ({"content": b"not an image", "headers": BINARY}, 422, "not an image of the kinds"),
        ({"content": b"", "headers": BINARY}, 422, "not an image of the kinds"),
        ({"content": png()[:-40], "headers": BINARY}, 422, ""),
        ({"content": huge_header(20_000, 10_000), "headers": BINARY}, 422, "200000000 pixels"),
        ({"content": huge_header(200, 100), "headers": BINARY}, 413, "20,000 pixels, over 10,000"),
        ({"content": bytes(9_001), "headers": BINARY}, 413, "9,001 bytes, over 9,000"),
        ({"content": bytes(2_000_000), "headers": {"Content-Type": "application/json"}}, 413, ""),
        ({"json": edited(bytes(9_001), FOUR)}, 413, "9,001 bytes, over 9,000"),
        ({"content": png()}, 415, "it came without a type"),
        ({"data": {"a": "b"}}, 415, "as application/x-www-form-urlencoded"),
        ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 400, "Invalid JSON"),
        ({"json": {"map": FOUR}}, 422, "image: Field required"),
        ({"json": edited(png(), FOUR) | {"brush": 1}}, 422, "brush: Extra inputs"),
        ({"json": edited(png(), np.ones((4, 5)).tolist())}, 422, "a map of 4 x 4 cells"),
        ({"json": edited(png(), [[1.0, 1.0], [1.0]])}, 422, "map: its rows differ in length"),
        ({"json": edited(png(), (2 * np.ones((4, 4))).tolist())}, 422, "map.0.0: Input should"),
        ({"json": edited(png(), [[]])}, 422, "map.0: List should have at least 1"),
        ({"content": png(), "headers": BINARY, "params": {"top": 0}}, 422, "query.top: Input"),
        ({"content": png(), "headers": BINARY, "params": {"pictures": "x"}}, 422, "query.pictures"),
    ],
)
def test_what_cannot_be_answered_is_refused_with_a_reason_and_the_server_lives_on(
    client: TestClient, request_: dict[str, object], status: int, reason: str
) -> None:
    reply = client.post("/predict", **request_)
    assert reply.status_code == status, reply.text
    assert reply.json().keys() == {"reason"} and reason in reply.json()["reason"]
    assert client.post("/predict", content=png(), headers=BINARY).status_code == 200


def test_an_unknown_address_and_method_have_a_reason_too(client: TestClient) -> None:
    assert (client.get("/nowhere").status_code, client.get("/predict").status_code) == (404, 405)
    assert client.get("/nowhere").json() == {"reason": "Not Found"}


def test_health_readiness_and_what_the_network_is(client: TestClient) -> None:
    assert client.get("/health").json()["status"] == "ok"
    assert client.get("/ready").json()["status"] == "ready"
    about = client.get("/model").json()
    assert about["classes"] == list(toys.NAMES) and about["map"] == [4, 4]
    assert (about["max_bytes"], about["max_pixels"], about["size"]) == (9_000, 10_000, 32)


def test_with_a_token_only_who_shows_it_is_answered() -> None:
    with TestClient(create(model(), Settings(token=TOKEN))) as client:
        for shown in ({}, {"Authorization": "Bearer other"}, {"Authorization": f"Basic {TOKEN}"}):
            for reply in (
                client.get("/model", headers=shown),
                client.post("/predict", content=png(), headers=BINARY | shown),
            ):
                assert reply.status_code == 401 and "token" in reply.json()["reason"]
                assert reply.headers["WWW-Authenticate"] == "Bearer"
        shown = {"Authorization": f"Bearer {TOKEN}"}
        assert client.post("/predict", content=png(), headers=BINARY | shown).status_code == 200
        assert [client.get(path).status_code for path in ("/", "/health", "/ready")] == [200] * 3


def test_more_requests_than_places_are_refused_and_the_server_is_not_ready() -> None:
    busy, ours, go = threading.Event(), model(), threading.Event()
    answer = ours.answer

    def slow(*arguments: object) -> object:
        busy.set()
        go.wait(30)
        return answer(*arguments)  # type: ignore[arg-type]

    with (
        TestClient(create(ours, Settings(open=1))) as client,
        ThreadPoolExecutor(1) as pool,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(ours, "answer", slow)
        first = pool.submit(client.post, "/predict", content=png(), headers=BINARY)
        assert busy.wait(30)
        for reply in (client.get("/ready"), client.post("/predict", content=png(), headers=BINARY)):
            assert reply.status_code == 503 and reply.headers["Retry-After"] == "1"
        assert client.get("/health").status_code == 200
        go.set()
        assert first.result().status_code == 200
        assert client.get("/ready").status_code == 200


def test_a_failure_of_the_network_is_a_500_and_the_next_request_is_answered() -> None:
    ours = model()
    with TestClient(create(ours, Settings()), raise_server_exceptions=False) as client:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ours, "answer", lambda *_: 1 / 0)
            reply = client.post("/predict", content=png(), headers=BINARY)
        assert (reply.status_code, reply.json()) == (
            500,
            {"reason": "the server failed; its log says how"},
        )
        assert client.post("/predict", content=png(), headers=BINARY).status_code == 200


def test_a_server_may_start_again() -> None:
    app = create(model(), Settings())
    for _ in range(2):
        with TestClient(app) as client:
            assert client.post("/predict", content=png(), headers=BINARY).status_code == 200


def test_the_page_loads_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "http" not in page.text.replace("HTTP", "")
    assert client.get("/docs").status_code == 404  # FastAPI's, whose scripts are elsewhere


def test_openapi_names_the_bodies_the_refusals_and_the_token() -> None:
    described = create(model(), Settings(token=TOKEN)).openapi()
    predict = described["paths"]["/predict"]["post"]
    kinds = {"application/octet-stream", "image/*", "application/json"}
    assert predict["requestBody"]["content"].keys() == kinds
    assert sorted(map(int, predict["responses"])) == [200, 400, 401, 408, 413, 415, 422, 503]
    assert predict["security"] == [{"HTTPBearer": []}]
    refusal = predict["responses"]["422"]["content"]["application/json"]["schema"]
    assert refusal == {"$ref": "#/components/schemas/Refusal"}
