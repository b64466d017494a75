"""A run as one HTML file that needs no network and no Python: a part of its times and signals, within a size."""

from __future__ import annotations

import html
from typing import Any, NamedTuple

import numpy as np
from bokeh.embed import file_html
from bokeh.models import CustomJS, IndexFilter, MultiChoice, Select, UIElement
from bokeh.models.sources import CDSView
from bokeh.resources import INLINE

from vars_dyn._version import __version__
from vars_dyn.view.panels import Chosen, Panels, Payload
from vars_dyn.view.scene import STYLE, WIDGET_STYLE, Scene

__all__ = ["MARK", "TEMPLATE", "Page", "page_of"]

#: The mark by which a page of ours is known.
MARK = f'<meta name="generator" content="vars_dyn {__version__}">'
#: The frame of a page, for Bokeh to fill in; what it fills in is escaped.
TEMPLATE = (
    "{% extends base %}{% block inner_head %}"
    f'{MARK}<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style>'
    "{{ super() }}{% endblock %}{% block inner_body %}<main><h1>{{ title | e }}</h1>{{ super() }}</main>{% endblock %}"
)
#: Bytes of the page without data: BokehJS and the figures. Numbers take 4/3 of their bytes.
_FIXED, _ENCODED = 2_500_000, 4 / 3
#: The most signals and neurons that are kept.
_SIGNALS, _NEURONS = 8, 24


class Page(NamedTuple):
    """A page, and how much of the run it holds."""

    text: str
    times: int
    signals: list[int]


def page_of(panels: Panels, title: str, limit: float, signals: list[int] | None = None) -> Page:
    """The page of a run, with as many recorded times as fit into `limit` bytes.

    `signals` are the signals that it holds; by default the first one, and as many more of the first eight as leave room
    for 50 times. Raises ValueError if not even two times fit.
    """
    run = panels.run
    count = len(run.times)
    first = Chosen(0 if signals is None else signals[0])
    per_time = _bytes(panels.frame(first, count - 1)) * _ENCODED
    more = _chosen(panels, first.signal)
    per_signal = _bytes(panels.courses(more)) * _ENCODED
    room = limit - _FIXED
    if signals is None:
        able = int(room / (per_signal + min(count, 50) * per_time))
        signals = list(range(max(1, min(run.signals, _SIGNALS, able))))
    times = int((room / len(signals) - per_signal) / max(per_time, 1.0))
    if times < min(2, count):
        wanted = _FIXED + len(signals) * (per_signal + 2 * per_time)
        raise ValueError(f"--max-mb is {limit / 1e6:g}; at least {wanted / 1e6 + 0.1:.1f} is wanted for this run")
    indices = sorted({round(k) for k in np.linspace(0, count - 1, min(count, times))})
    scene = Scene(panels, indices)
    layout = scene.layout(*_controls(panels, scene, signals, indices))
    lacking = "" if len(indices) == count and len(signals) == run.signals else (
        f" This page holds {len(indices)} of {count} recorded times and {len(signals)} of {run.signals} signals."
    )  # fmt: skip
    scene.status.text = html.escape(f"{run.facts.get('field', 'trajectory')}: {run.facts.get('status', '')}.{lacking}")
    return Page(file_html(layout, INLINE, title=title, template=TEMPLATE), len(indices), signals)


def _chosen(panels: Panels, signal: int) -> Chosen:
    run = panels.run
    atoms, neurons = (tuple(run.largest(name, signal, _NEURONS)) if name in run.dataset else () for name in ("u", "z"))
    return Chosen(signal, atoms, neurons)


def _controls(panels: Panels, scene: Scene, signals: list[int], indices: list[int]) -> list[UIElement]:
    kept: list[dict[str, Any]] = []
    for signal in signals:
        chosen = _chosen(panels, signal)
        frames = [panels.frame(chosen, index) for index in indices]
        limits = {name: list(pair) for name, pair in panels.limits(chosen).items()}
        kept.append({"frames": frames, "courses": panels.courses(chosen), "limits": limits})
    scene.apply(kept[0]["frames"][-1] | kept[0]["courses"], kept[0]["limits"])
    scene.slider.value = len(indices) - 1
    scene.offer(indices)
    choices = {name: _lines(scene, name) for name in ("u", "z") if name in scene.sources}
    select = Select(title="signal", options=[(str(k), str(s)) for k, s in enumerate(signals)], value="0",
                    width=120, stylesheets=[WIDGET_STYLE])  # fmt: skip
    show = CustomJS(
        args={
            "kept": kept, "sources": scene.sources, "mappers": scene.mappers, "slider": scene.slider,
            "ranges": {name: list(pair) for name, pair in scene.ranges.items()}, "select": select, "choices": choices,
        },
        code=_SHOW,
    )  # fmt: skip
    scene.slider.js_on_change("value", show)
    select.js_on_change("value", show)
    return [*([select] if len(signals) > 1 else []), *choices.values()]


def _lines(scene: Scene, name: str) -> MultiChoice:
    """A choice among the curves of a panel."""
    names = list(dict.fromkeys(scene.sources[name].data["name"]))
    shown = [k for k, line in enumerate(scene.sources[name].data["name"]) if line in _first(names)]
    filter_ = IndexFilter(shown)
    scene.figures[name].renderers[0].view = CDSView(filter=filter_)
    choice = MultiChoice(title=f"curves of {name}", options=names, value=_first(names), width=330,
                         stylesheets=[WIDGET_STYLE])  # fmt: skip
    code = """
const names = Array.from(source.data.name);
filter.indices = names.map((n, k) => k).filter((k) => choice.value.includes(names[k]));
source.change.emit();
"""
    args = {"choice": choice, "source": scene.sources[name], "filter": filter_}
    choice.js_on_change("value", CustomJS(args=args, code=code))
    return choice


def _first(names: list[str]) -> list[str]:
    return [*names[:8], *(["threshold"] if "threshold" in names[8:] else [])]


def _bytes(payload: Payload) -> int:
    """The bytes of all numbers of a payload, as a page holds them, with something for what surrounds them."""
    total = 0
    for columns in payload.values():
        for column in columns.values():
            parts = column if isinstance(column, list) else [column]
            total += sum(part.nbytes + 150 if isinstance(part, np.ndarray) else 30 for part in parts) + 60
    return total


#: Show what is kept of the chosen signal and time.
_SHOW = """
const get = (o, k) => (o instanceof Map ? o.get(k) : o[k]);
const pairs = (o) => (o instanceof Map ? Array.from(o.entries()) : Object.entries(o));
const signal = get(kept, Number(select.value));
const fill = (payload) => {
  for (const [name, columns] of pairs(payload)) {
    const source = get(sources, name);
    if (source === undefined) continue;
    source.data = Object.fromEntries(pairs(columns));
    const range = get(ranges, name);
    if (range !== undefined) { range[0].end = get(columns, 'dw')[0]; range[1].end = get(columns, 'dh')[0]; }
  }
};
if (cb_obj === select) {
  fill(get(signal, 'courses'));
  for (const [name, pair] of pairs(get(signal, 'limits'))) {
    const mapper = get(mappers, name);
    mapper.low = pair[0];
    mapper.high = pair[1];
  }
  for (const [name, choice] of pairs(choices)) {
    const names = Array.from(new Set(get(get(get(signal, 'courses'), name), 'name')));
    choice.options = names;
    choice.value = names.filter((n, k) => k < 8 || n === 'threshold');
  }
}
fill(get(signal, 'frames')[Math.round(slider.value)]);
"""
