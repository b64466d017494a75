"""The viewer: what its panels show, the page as a file, the server's guards, and a store that grows."""

from __future__ import annotations

import base64
import gzip
import http.client
import itertools
import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import vars_dyn as vd

pytest.importorskip("bokeh")

import psutil
from bokeh.client import pull_session
from bokeh.models import Div
from tornado.ioloop import IOLoop

from vars_dyn.view.arrays import places_of, shrunk, thinned
from vars_dyn.view.command import main
from vars_dyn.view.panels import Chosen, Panels
from vars_dyn.view.reading import Recorded
from vars_dyn.view.server import server_of

FLOATS = st.floats(-1e6, 1e6)


def field_of(signals: int = 3, neurons: int = 16, atoms: int = 32) -> vd.SparseRecurrent:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(neurons, atoms, generator=generator, dtype=torch.float64)
    x = torch.randn(signals, neurons, generator=generator, dtype=torch.float64)
    return vd.SparseRecurrent(vd.DenseDictionary(weight / weight.norm(dim=0)), x, lam=1.0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("view") / "run.zarr"
    vd.record(field_of(), path, 0.5 * torch.arange(41, dtype=torch.float64), chunk=8)
    return path


# -- arrays


@given(hnp.arrays(np.float64, st.integers(0, 300), elements=FLOATS), st.integers(1, 50))
def test_thinned_keeps_order_and_the_largest(values: Any, most: int) -> None:
    places, kept = thinned(values, most)
    assert len(kept) <= most
    assert np.array_equal(values[places], kept)
    assert np.all(np.diff(places) > 0)
    if len(values):
        assert np.abs(kept).max() == np.abs(values).max()


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=FLOATS), st.integers(1, 30))
def test_shrunk_images_are_means(image: Any, most: int) -> None:
    small = shrunk(image, most)
    assert max(small.shape) <= most
    size = -(-max(image.shape) // most)
    assert np.isclose(small[0, 0], image[:size, :size].mean(), rtol=1e-9, atol=1e-6)
    assert image.min() - 1e-6 <= small.min()
    assert small.max() <= image.max() + 1e-6


@given(st.lists(st.integers(0, 500), min_size=1, max_size=20, unique=True), st.data())
def test_places_of_finds_what_was_typed(recorded: list[int], data: st.DataObject) -> None:
    numbers = np.array(recorded)
    wanted = data.draw(st.lists(st.sampled_from(recorded), min_size=1, unique=True))
    found = places_of(" , ".join(map(str, wanted)), numbers, "u")
    assert [int(numbers[k]) for k in found] == wanted
    with pytest.raises(ValueError, match="501, which is not recorded"):
        places_of("501", numbers, "u")


@pytest.mark.parametrize("text", ["a", "1-", "-1", "5-2", "1.5", "0-100000"])
def test_places_of_refuses_other_texts(text: str) -> None:
    with pytest.raises(ValueError, match=r"is wanted|are wanted"):
        places_of(text, np.arange(10), "u")


# -- panels


def test_panels_show_the_numbers_of_the_run(store: Path) -> None:
    run = vd.open_dataset(store)
    panels = Panels(Recorded(run))
    last = run.sizes["time"] - 1
    shown = panels.frame(Chosen(signal=1), last)
    assert np.allclose(shown["reconstruction"]["y"], run["reconstruction_end"][1])
    assert np.allclose(shown["residual"]["y"], run["signals"][1] - run["reconstruction_end"][1])
    code = run["code"][last, 1].to_numpy()
    assert np.array_equal(shown["code"]["x"], np.flatnonzero(code))
    assert np.array_equal(shown["code"]["y"], code[code != 0])
    order = np.argsort(-np.abs(code))[:12]
    assert [text.split(":")[0] for text in shown["atom_names"]["text"]] == [str(k) for k in order if code[k]]
    first = panels.frame(Chosen(signal=1), 0)
    assert np.allclose(first["residual"]["y"], run["signals"][1])  # no neuron is active at first


def test_curves_are_those_of_the_largest_or_chosen_neurons(store: Path) -> None:
    run = vd.open_dataset(store)
    panels = Panels(Recorded(run))
    u = run["u"][:, 2].to_numpy()
    largest = panels.courses(Chosen(signal=2))["u"]
    names = [f"u {k}" for k in np.argsort(-np.abs(u[-1]))[:8]]
    assert largest["name"] == [*names, "threshold", "threshold"]
    chosen = panels.courses(Chosen(signal=2, atoms=(3, 30)))["u"]
    assert np.array_equal(np.array(chosen["ys"][:2]), u[:, [3, 30]].T)
    gap = panels.courses(Chosen(signal=2))["gap"]
    assert gap["name"][0] == "gap of signal 2"
    positive = run["relative_gap"][:, 2].to_numpy() > 0
    assert np.array_equal(gap["ys"][0][positive], run["relative_gap"][:, 2].to_numpy()[positive])


def test_a_part_of_the_neurons_keeps_its_numbers(tmp_path: Path) -> None:
    times = torch.arange(5, dtype=torch.float64)
    run = vd.record(field_of(), tmp_path / "part.zarr", times, atoms=[4, 9, 20], variables=["u", "code"])
    panels = Panels(Recorded(run))
    assert {panel.name for panel in panels.panels} == {"input", "reconstruction", "residual", "code", "atoms", "u"}
    assert set(panels.frame(Chosen(), 4)["code"]["x"]) <= {4, 9, 20}
    assert {name.split()[1] for name in panels.courses(Chosen())["u"]["name"] if name != "threshold"} == {
        "4",
        "9",
        "20",
    }
    assert not len(panels.frame(Chosen(), 2)["reconstruction"]["y"])  # known at the end only


def test_layers_of_a_hierarchy_can_be_chosen() -> None:
    generator = torch.Generator().manual_seed(1)
    sizes = (8, 12, 6)
    parts = [vd.DenseDictionary(torch.randn(m, n, generator=generator, dtype=torch.float64) / 4)
             for m, n in itertools.pairwise(sizes)]  # fmt: skip
    x = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    problem = vd.hierarchy_problem(x, parts, lam=[0.1, 0.1], coupling=[1.0])
    field = vd.SparseRecurrent(problem.dictionary, problem.x, lam=problem.lam, weights=problem.weights)
    run = vd.integrate(field, field.initial_state(), torch.arange(4, dtype=torch.float64)).to_dataset()
    recorded = Recorded(run)
    assert recorded.layers == [1, 2]
    shown = Panels(recorded).courses(Chosen(layer=2))["u"]["name"]
    assert {int(name.split()[1]) for name in shown if name != "threshold"} == set(range(12, 18))


def test_maps_of_a_convolution() -> None:
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(5, 1, 3, 3, generator=generator, dtype=torch.float64)
    P = vd.ConvDictionary(weight, (1, 10, 12))
    x = torch.randn(2, 1, 10, 12, generator=generator, dtype=torch.float64)
    field = vd.SparseRecurrent(P, x, lam=2.0)
    run = vd.integrate(field, field.initial_state(), torch.arange(4, dtype=torch.float64)).to_dataset()
    panels = Panels(Recorded(run))
    shown = panels.frame(Chosen(signal=1), 3)
    code = run["code"][3, 1].to_numpy()
    assert np.allclose(shown["code"]["image"][0][::-1], np.abs(code).sum(axis=0), rtol=1e-6)
    one = panels.frame(Chosen(signal=1, template=4), 3)
    assert np.allclose(one["code"]["image"][0][::-1], code[4], rtol=1e-6)
    assert np.allclose(shown["input"]["image"][0][::-1], x[1, 0], rtol=1e-6)
    assert shown["input"]["dw"] == [12]
    rebuilt = run["reconstruction_end"][1, 0]
    assert np.allclose(shown["reconstruction"]["image"][0][::-1], rebuilt, rtol=1e-5, atol=1e-6)


def test_a_hundred_thousand_neurons_cost_no_more_than_a_screen() -> None:
    field = field_of(signals=1, neurons=100_000, atoms=4)
    trajectory = vd.integrate(field, field.initial_state(), torch.arange(11, dtype=torch.float64), rtol=1e-3)
    panels = Panels(Recorded(trajectory.to_dataset()))
    began = time.perf_counter()
    payload = panels.frame(Chosen(), 5) | panels.courses(Chosen())
    assert time.perf_counter() - began < 5
    sizes = [np.size(part) for columns in payload.values() for column in columns.values() for part in column]
    assert sum(sizes) < 20_000


# -- the page


def numbers_in(text: str) -> list[Any]:
    """All arrays of the document in a page, decoded by hand."""
    document = json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    found: list[Any] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if node.get("type") == "ndarray" and isinstance(node["array"], dict):
                raw = base64.b64decode(node["array"]["data"])
                raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
                found.append(np.frombuffer(raw, node["dtype"]).reshape(node["shape"]))
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(document)
    return found


def test_the_page_is_one_file_within_its_size(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.html"
    assert main([str(store), "--html", str(file), "--max-mb", "5"]) == 0
    assert file.stat().st_size < 5e6
    assert "41 of 41 recorded times and 3 of 3 signals" in capsys.readouterr().out
    text = file.read_text()
    assert not re.search(r'<(script|link)[^>]*(src|href)\s*=\s*["\']', text)  # nothing is fetched
    assert 'lang="en"' in text
    run = vd.open_dataset(store)
    held = [array for array in numbers_in(text) if array.shape == (16,)]
    wanted = run["signals"][2].to_numpy() - run["reconstruction_end"][2].to_numpy()
    assert any(np.allclose(array, wanted, atol=1e-6) for array in held)
    assert main([str(store), "--html", str(file)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert main([str(store), "--html", str(file), "--overwrite", "--signals", "2", "--max-mb", "3"]) == 0
    assert "1 of 3 signals" in capsys.readouterr().out
    file.write_text("<html>mine</html>")
    assert main([str(store), "--html", str(file), "--overwrite"]) == 2
    assert file.read_text() == "<html>mine</html>"


def test_a_larger_run_is_cut_to_the_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times = torch.linspace(0, 1, 121, dtype=torch.float64)
    vd.record(field_of(signals=4, neurons=200, atoms=100), tmp_path / "a.zarr", times, rtol=1e-2)
    assert main([str(tmp_path / "a.zarr"), "--html", str(tmp_path / "a.html"), "--max-mb", "3"]) == 0
    assert (tmp_path / "a.html").stat().st_size < 3e6
    kept = re.search(r"with (\d+) of 121 recorded times", capsys.readouterr().out)
    assert kept is not None
    assert 2 <= int(kept[1]) < 121


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.zarr"], "does not exist"),
        (["RUN", "--html", "a.txt"], "ending in .html"),
        (["RUN", "--html", "a.html", "--signals", "7"], "numbers from 0 to 2"),
        (["RUN", "--html", "a.html", "--max-mb", "1"], "at least"),
        (["RUN", "--overwrite"], "does nothing without --html"),
        (["RUN", "--htm", "a.html"], "did you mean --html?"),
    ],
)
def test_bad_arguments_get_one_line(
    arguments: list[str], said: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(store) if word == "RUN" else word for word in arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


# -- the server


class Served:
    """A server in a thread of its own."""

    def __init__(self, path: Path) -> None:
        ready = threading.Event()

        def run() -> None:
            self.loop = IOLoop(make_current=True)
            self.server, self.address = server_of(path)
            self.loop.add_callback(ready.set)
            self.loop.start()
            self.server.stop(wait=False)
            self.loop.close()

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()
        assert ready.wait(30)
        self.host = self.address.removeprefix("http://").rstrip("/")

    def close(self) -> None:
        self.loop.add_callback(self.loop.stop)
        self.thread.join(30)

    def status(self, path: str = "/", **headers: str) -> int:
        connection = http.client.HTTPConnection(self.host, timeout=30)
        try:
            connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
            return connection.getresponse().status
        finally:
            connection.close()


@pytest.fixture
def serve() -> Iterator[Callable[[Path], Served]]:
    begun: list[Served] = []

    def start(path: Path) -> Served:
        begun.append(Served(path))
        return begun[-1]

    yield start
    for served in begun:
        served.close()


UPGRADE = {
    "Upgrade": "websocket", "Connection": "Upgrade", "Sec_WebSocket_Version": "13",
    "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==",
}  # fmt: skip


def test_only_this_machine_and_this_store_are_served(
    store: Path, serve: Callable[[Path], Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOKEH_ALLOW_WS_ORIGIN", "*")
    served = serve(store)
    port = int(served.host.rpartition(":")[2])
    bound = [
        c.laddr.ip for c in psutil.Process().net_connections("tcp") if c.laddr.port == port and c.status == "LISTEN"
    ]
    assert bound == ["127.0.0.1"]
    assert served.status() == 200
    assert served.status(Host="evil.example") == 403
    assert served.status("/static/js/bokeh.min.js", Host="evil.example") == 403
    assert served.status("/run.zarr/zarr.json") == 404
    assert served.status("/static/../../run.zarr/zarr.json") in (400, 403, 404)
    page = http.client.HTTPConnection(served.host)
    page.request("GET", "/")
    token = re.search(r'"token":"([^"]+)"', page.getresponse().read().decode())[1]  # type: ignore[index]
    page.close()
    asked = UPGRADE | {"Sec_WebSocket_Protocol": f"bokeh, {token}"}
    assert served.status("/ws", Origin="http://evil.example", **asked) == 403
    assert served.status("/ws", Origin=f"http://{served.host}", **asked) == 101


def test_a_page_answers_and_follows_a_store_that_grows(tmp_path: Path, serve: Callable[[Path], Served]) -> None:
    path, field, times = tmp_path / "run.zarr", field_of(), 0.5 * torch.arange(41, dtype=torch.float64)

    def stop(now: Any) -> None:
        if now.time > 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vd.record(field, path, times, chunk=8, progress=stop)
    begun = vd.open_dataset(path)
    count = begun.sizes["time"]
    assert 8 <= count < 41
    served = serve(path)
    with Page(served.address) as page:
        assert page.find(title=TIME).end == count - 1
        page.set(TIME, count // 2)
        page.set("signal, 0 to 2", 1)
        wanted = begun["code"][count // 2, 1].to_numpy()
        page.until(lambda: np.array_equal(page.data("code")["y"], wanted[wanted != 0]))
        page.set(ATOMS, "5, 7")
        page.until(lambda: list(page.data("u")["name"][:2]) == ["u 5", "u 7"])
        page.set(ATOMS, "500")
        page.until(lambda: any("not recorded" in each.text for each in page.document.select({"type": Div})))
        page.set(ATOMS, "")
        page.set(TIME, count - 1)  # a page that shows the newest time goes on showing it
        vd.record(field, path, times, chunk=8, resume=True)
        page.until(lambda: (page.find(title=TIME).end, page.find(title=TIME).value) == (40, 40))
        wanted = vd.open_dataset(path)["code"][40, 1].to_numpy()
        page.until(lambda: np.array_equal(page.data("code")["y"], wanted[wanted != 0]))


TIME, ATOMS = "time (membrane time constants)", "atoms u, such as 3, 10-14"


class Page:
    """A page of the server, as a client without a browser sees it. One session writes, and fresh ones read."""

    def __init__(self, address: str) -> None:
        self.address, self.session = address, pull_session(url=address)
        self.document = self.session.document

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()

    def find(self, **named: str) -> Any:
        return self.document.select_one(named)

    def set(self, title: str, value: Any) -> None:
        self.session.document.select_one({"title": title}).value = value
        self.session.force_roundtrip()

    def data(self, name: str) -> Any:
        return self.find(name=name).renderers[0].data_source.data

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait for what the server does in its own time."""
        end = time.monotonic() + 30
        while True:
            other = pull_session(session_id=self.session.id, url=self.address)
            self.document = other.document
            met = holds()
            other.close()
            if met:
                return
            assert time.monotonic() < end
            time.sleep(0.4)


# -- in a browser


def chromium() -> str | None:
    return os.environ.get("VARS_DYN_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(chromium() is None, reason="no Chromium, on the path or named by VARS_DYN_CHROMIUM")
@pytest.mark.filterwarnings("ignore")
def test_in_a_browser(store: Path, tmp_path: Path, serve: Callable[[Path], Served]) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    assert main([str(store), "--html", str(tmp_path / "run.html")]) == 0
    served = serve(store)
    flags = ["--no-sandbox", "--disable-gpu", "--single-process", "--no-zygote"]
    with sync_api.sync_playwright() as playwright:
        for address in (f"file://{tmp_path / 'run.html'}", served.address):
            for width in (1400, 400):
                browser = playwright.chromium.launch(executable_path=chromium(), args=flags)
                page = browser.new_page(viewport={"width": width, "height": 900})
                wrong: list[str] = []
                page.on("pageerror", lambda error, wrong=wrong: wrong.append(str(error)))
                page.on("console", lambda m, wrong=wrong: wrong.append(m.text) if m.type == "error" else None)
                page.goto(address)
                handle = page.locator(".noUi-handle").first
                handle.wait_for(timeout=60_000)
                title = page.locator(".bk-slider-title").first
                before = title.inner_text()
                handle.focus()
                for _ in range(3):
                    page.keyboard.press("ArrowLeft")
                sync_api.expect(title).not_to_have_text(before, timeout=60_000)
                outline = handle.evaluate("(node) => getComputedStyle(node).outlineStyle")
                assert outline == "solid"  # the focus can be seen
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                assert not wrong
                browser.close()
