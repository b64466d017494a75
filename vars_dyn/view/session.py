"""One open page of the viewer: what its user chooses, and the store that it follows."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bokeh.document import Document, without_document_lock
from bokeh.models import Div, Select, Spinner, TextInput, UIElement

from vars_dyn.recording import StoreError, open_dataset
from vars_dyn.view.arrays import places_of
from vars_dyn.view.panels import Chosen, Panels, Payload
from vars_dyn.view.reading import Recorded
from vars_dyn.view.scene import WIDGET_STYLE, Scene

__all__ = ["Session"]

#: How often a page looks whether its store has grown, in milliseconds.
_LOOK = 1000

Limits = dict[str, tuple[float, float]]


class Session:
    """A document that shows the store at `path`, and follows it while it is written.

    Numbers are read in threads, so that the server goes on answering. While a read is under way only the newest wish is
    kept, so that a slider that is dragged does not queue up.
    """

    def __init__(self, document: Document, path: Path) -> None:
        self._document, self._path = document, path
        self._mark: object = None
        self._scene: Scene | None = None
        self._run: object = None
        self._busy = False
        self._wish: tuple[bool, Chosen, int] | None = None
        self._shown: Chosen | None = None
        document.title = f"{path.name} - vars_dyn"
        try:
            self._open()
        except StoreError as error:
            self._say(str(error))
        document.add_periodic_callback(self._look, _LOOK)

    # -- the store

    def _stamp(self) -> object:
        try:
            seen = (self._path / "zarr.json").stat()
        except OSError:
            return None
        return seen.st_mtime_ns, seen.st_ino, seen.st_size

    def _open(self) -> None:
        """Show the store as it is now, from the start."""
        self._mark = self._stamp()
        run = Recorded(open_dataset(self._path))
        panels = Panels(run)
        scene = Scene(panels, list(range(len(run.times))))
        self._run = run.facts.get("run")
        self._scene, self._shown, self._wish = scene, None, None
        scene.slider.value = len(run.times) - 1
        scene.offer(list(range(len(run.times))))
        self._tell()
        layout = scene.layout(*self._controls(scene))
        self._document.clear()
        self._document.add_root(layout)
        chosen = self._chosen()
        scene.apply(panels.frame(chosen, scene.slider.value) | panels.courses(chosen), panels.limits(chosen))
        self._shown = chosen
        scene.slider.on_change("value", self._moved)

    def _say(self, text: str) -> None:
        self._scene = None
        self._document.clear()
        self._document.add_root(Div(text=html.escape(text), stylesheets=[WIDGET_STYLE]))

    def _tell(self) -> None:
        scene = self._scene
        if scene is None:
            return
        run = scene.run
        many = f"{run.signals} signal{'s' * (run.signals != 1)}"
        text = f"{run.facts.get('field', 'trajectory')}, {many}: {run.facts.get('status', '')}"
        if run.facts.get("status") == "running":
            text += f" to t = {run.facts.get('t_max'):g}; this page follows it"
        scene.status.text = html.escape(f"{text}. {len(run.times)} recorded times.")

    def _look(self) -> None:
        """Follow the store if it has changed."""
        mark = self._stamp()
        if mark == self._mark or mark is None or self._busy:
            return
        self._mark = mark
        try:
            run = Recorded(open_dataset(self._path))
            scene = self._scene
            if scene is None or run.facts.get("run") != self._run:
                self._open()
                return
            self._grow(scene, run)
        except StoreError as error:
            self._mark = None  # it may be whole again at the next look
            if self._scene is not None:
                self._scene.status.text = html.escape(str(error))

    def _grow(self, scene: Scene, run: Recorded) -> None:
        at_end = scene.slider.value >= len(scene.run.times) - 1
        panels = Panels(run)
        if [panel.name for panel in panels.panels] != [panel.name for panel in scene.panels.panels]:
            self._open()  # the end of a run brings panels that a run under way has not
            return
        scene.panels, scene.run = panels, run
        scene.offer(list(range(len(run.times))))
        if at_end:
            scene.slider.value = len(run.times) - 1
        self._tell()
        self._want(True)

    # -- the user

    def _controls(self, scene: Scene) -> list[UIElement]:
        run, style = scene.run, {"stylesheets": [WIDGET_STYLE]}
        controls: list[UIElement] = []
        self._signal = Spinner(title=f"signal, 0 to {run.signals - 1}", low=0, high=run.signals - 1, value=0, step=1,
                               width=130, **style)  # fmt: skip
        self._layer = Select(title="layer", options=["all", *map(str, run.layers)], value="all", width=90, **style)
        count = scene.panels.templates
        self._template = Spinner(title=f"template, 0 to {count - 1}; -1: all", low=-1, high=max(count - 1, 0),
                                 value=-1, step=1, width=180, **style)  # fmt: skip
        self._atoms = TextInput(title="atoms u, such as 3, 10-14", placeholder="the largest", width=190, **style)
        self._neurons = TextInput(title="neurons z, such as 3, 10-14", placeholder="the largest", width=190, **style)
        self._error = Div(text="", styles={"color": "#b71c1c", "font-size": "14px"})
        for there, widget in (
            (run.signals > 1, self._signal),
            (bool(run.layers), self._layer),
            (count > 1 and any(p.name == "code" and p.kind == "image" for p in scene.panels.panels), self._template),
            ("u" in run.dataset, self._atoms),
            ("z" in run.dataset, self._neurons),
        ):
            if there:
                controls.append(widget)
                widget.on_change("value", self._changed)
        return [*controls, self._error]

    def _chosen(self) -> Chosen:
        """What the widgets say; ValueError for a text that names no recorded neurons."""
        scene = self._scene
        if scene is None:
            return Chosen()
        run = scene.run
        signal = min(max(int(self._signal.value or 0), 0), run.signals - 1)
        atoms, neurons = (
            places_of(widget.value, run.numbers(name), name) if name in run.dataset else ()
            for name, widget in (("u", self._atoms), ("z", self._neurons))
        )
        template = -1 if self._template.value is None else int(self._template.value)
        return Chosen(
            signal,
            atoms,
            neurons,
            None if self._layer.value == "all" else int(self._layer.value),
            None if not 0 <= template < scene.panels.templates else template,
        )

    # -- reading beside the server's own work

    def _changed(self, attr: str, old: object, new: object) -> None:
        self._want(True)

    def _moved(self, attr: str, old: object, new: object) -> None:
        self._want(False)

    def _want(self, all_: bool) -> None:
        """Show what is chosen now; the curves too if `all_`."""
        scene = self._scene
        if scene is None:
            return
        try:
            chosen = self._chosen()
            self._error.text = ""
        except ValueError as error:
            self._error.text = html.escape(str(error))
            return
        before = self._wish is not None and self._wish[0]
        self._wish = (all_ or before, chosen, int(scene.slider.value))
        if not self._busy:
            self._busy = True
            self._document.add_next_tick_callback(self._read)

    @without_document_lock
    async def _read(self) -> None:
        wish, scene = self._wish, self._scene
        self._wish = None
        if wish is None or scene is None:
            self._busy = False
            return
        panels = scene.panels
        index = min(wish[2], len(panels.run.times) - 1)

        def work() -> tuple[Payload, Limits | None]:
            found = panels.frame(wish[1], index)
            return (found | panels.courses(wish[1]), panels.limits(wish[1])) if wish[0] else (found, None)

        shown: Callable[[], Any]
        try:
            payload, limits = await asyncio.to_thread(work)
        except Exception as error:  # whatever a read raises, the page says so and goes on
            text = str(error)
            shown = lambda: self._failed(text)  # noqa: E731
        else:
            shown = lambda: self._done(scene, payload, limits)  # noqa: E731
        self._document.add_next_tick_callback(shown)

    def _done(self, scene: Scene, payload: Payload, limits: Limits | None) -> None:
        if scene is self._scene:
            scene.apply(payload, limits)
        self._again()

    def _failed(self, text: str) -> None:
        """Say what could not be read, and look at the store anew."""
        if self._scene is not None:
            self._scene.status.text = html.escape(text)
        self._mark = None
        self._again()

    def _again(self) -> None:
        self._busy = False
        if self._wish is not None:
            self._busy = True
            self._document.add_next_tick_callback(self._read)
