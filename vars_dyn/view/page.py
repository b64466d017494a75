"""A run as one HTML file that needs no network and no Python: a part of its times and signals, within a size."""

from __future__ import annotations

import html
from typing import Any, NamedTuple

import numpy as np
from bokeh.embed import file_html
from bokeh.models import ColumnDataSource, CustomJS, MultiChoice, Select, UIElement
from bokeh.resources import INLINE

from vars_dyn._version import __version__
from vars_dyn.view.panels import COLOURS, Chosen, Panels, Payload
from vars_dyn.view.scene import STYLE, WIDGET_STYLE, Scene

__all__ = ["MARK", "TEMPLATE", "Page", "page_of"]

#: The mark by which a page of ours is known.
MARK = f'<meta name="generator" content="vars_dyn {__version__}">'
#: The frame of a page, for Bokeh to fill in; what it fills in is escaped.
TEMPLATE = (
    "{% block inner_head %}"
    f'{MARK}<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style>'
    "{{ super() }}{% endblock %}{% block inner_body %}<main><h1>{{ title | e }}</h1>{{ super() }}</main>{% endblock %}"
)
#: Bytes of the page without data: BokehJS and the figures. Numbers take 4/3 of their bytes.
_FIXED, _ENCODED = 2_500_000, 4 / 3
#: What does not change with time if the input does not.
_STILL = ("input", "patch")
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
    frame = panels.frame(first, count - 1)
    still = {} if run.moves else {name: frame.pop(name) for name in _STILL}
    per_time = _bytes(frame) * _ENCODED
    per_signal = _bytes(panels.courses(_chosen(panels, first.signal)) | still) * _ENCODED
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
    run, kept = panels.run, list[dict[str, Any]]()
    for signal in signals:
        chosen = _chosen(panels, signal)
        frames = [panels.frame(chosen, index) for index in indices]
        limits = {name: list(pair) for name, pair in panels.limits(chosen).items()}
        courses = panels.courses(chosen)
        if not run.moves:  # what stays the same is kept once
            courses |= {name: frames[-1][name] for name in _STILL}
            frames = [{name: data for name, data in frame.items() if name not in _STILL} for frame in frames]
        kept.append({"frames": frames, "courses": courses, "limits": limits})
    scene.apply(kept[0]["frames"][-1] | kept[0]["courses"], kept[0]["limits"])
    scene.slider.value = len(indices) - 1
    scene.offer(indices)
    lines = {name: _lines(scene, name) for name in ("u", "z") if name in scene.sources}
    choices = {name: choice for name, (choice, _) in lines.items()}
    sources = scene.sources | {name: full for name, (_, full) in lines.items()}
    select = Select(title="signal", options=[(str(k), str(s)) for k, s in enumerate(signals)], value="0",
                    width=120, stylesheets=[WIDGET_STYLE])  # fmt: skip
    show = CustomJS(
        args={
            "kept": kept, "sources": sources, "mappers": scene.mappers, "slider": scene.slider,
            "select": select, "choices": choices,
        },
        code=_SHOW,
    )  # fmt: skip
    scene.slider.js_on_change("value", show)
    select.js_on_change("value", show)
    return [*([select] if len(signals) > 1 else []), *choices.values()]


def _lines(scene: Scene, name: str) -> tuple[MultiChoice, ColumnDataSource]:
    """A choice among the curves of a panel, and the source that holds all of them."""
    shown = scene.sources[name]
    full = ColumnDataSource(dict(shown.data))
    names = list(dict.fromkeys(full.data["name"]))
    choice = MultiChoice(title=f"curves of {name}", options=names, value=_first(names), width=332,
                         stylesheets=[WIDGET_STYLE])  # fmt: skip
    picked = [k for k, line in enumerate(full.data["name"]) if line in choice.value]
    shown.data = {column: [values[k] for k in picked] for column, values in full.data.items()}
    args = {"choice": choice, "shown": shown, "full": full, "colours": list(COLOURS)}
    choice.js_on_change("value", CustomJS(args=args, code=_PICK))
    return choice, full


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


#: Show the chosen ones of all curves, in colours that differ.
_PICK = """
const names = Array.from(full.data.name);
const picked = names.map((n, k) => k).filter((k) => choice.value.includes(names[k]));
const colour = picked.map((k, n) => (names[k] === 'threshold' ? full.data.colour[k] : colours[n % colours.length]));
const take = (column) => picked.map((k) => full.data[column][k]);
shown.data = {xs: take('xs'), ys: take('ys'), name: take('name'), colour: colour};
"""
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
    choice.value = [];
    choice.value = names.filter((n, k) => k < 8 || n === 'threshold');
  }
}
fill(get(signal, 'frames')[Math.round(slider.value)]);
"""
