"""The figures of the viewer: one for each panel, with the sources of their data, in an order that fits any width."""

from __future__ import annotations

import numpy as np
from bokeh.events import Tap
from bokeh.layouts import column, row
from bokeh.models import (
    BasicTicker,
    ColorBar,
    ColumnDataSource,
    CustomJS,
    CustomJSTickFormatter,
    DataRange1d,
    Div,
    FixedTicker,
    HoverTool,
    LinearColorMapper,
    Range1d,
    Slider,
    Span,
    UIElement,
)
from bokeh.plotting import figure

from vars_dyn.view.arrays import ticks
from vars_dyn.view.panels import Panel, Panels, Payload

__all__ = ["STYLE", "Scene"]

#: The width of a panel in pixels of the page, and the heights of pictures and curves. A phone shows one in a line.
_WIDTH, _HEIGHT, _TALL = 332, 300, 330
_GREY = [f"#{k:02x}{k:02x}{k:02x}" for k in range(256)]
_BLUE, _INK, _RED = "#1f5fa8", "#222222", "#b71c1c"

#: The page's own style: readable sizes, and a frame around what has the focus of the keyboard.
STYLE = """
body { background: #ffffff; color: #222222; font-family: system-ui, sans-serif; }
main { display: block; margin: 0 auto; padding: 12px; max-width: 1500px; box-sizing: border-box; }
h1 { font-size: 1.3rem; margin: 0 0 8px 0; overflow-wrap: anywhere; }
"""
#: The style inside widgets, which stylesheets of the page do not reach.
WIDGET_STYLE = """
:host { color: #222222; font-size: 14px; }
:focus-visible, .noUi-handle:focus { outline: 3px solid #b71c1c !important; outline-offset: 2px; }
.noUi-connect { background: #1f5fa8; }
.noUi-handle { border-color: #222222; }
.bk-slider-title, label { color: #222222; font-size: 14px; }
"""


def _diverging() -> list[str]:
    """Blue, white and red, with 255 steps."""
    low, middle, high = np.array([[33, 102, 172], [255, 255, 255], [178, 24, 43]], float)
    shades = [middle + (low - middle) * (1 - k / 127) if k < 127 else middle + (high - middle) * (k / 127 - 1)
              for k in range(255)]  # fmt: skip
    return [f"#{int(r):02x}{int(g):02x}{int(b):02x}" for r, g, b in shades]


class Scene:
    """Figures and a time slider, and the sources that hold what they show.

    Attributes:
        sources: the data of each panel, by the panel's name.
        mappers: the colours of each picture, by the panel's name.
        slider: the number of the shown time among those that can be shown.
        status: a line of text on the state of the run.
    """

    def __init__(self, panels: Panels, indices: list[int]) -> None:
        self.panels, self.run = panels, panels.run
        self.sources: dict[str, ColumnDataSource] = {}
        self.mappers: dict[str, LinearColorMapper] = {}
        self.cursors: list[Span] = []
        self.figures = {panel.name: self._figure(panel) for panel in panels.panels}
        self.clock = ColumnDataSource({"at": [], "time": []})
        self.status = Div(
            text="", styles={"font-size": "14px"}, stylesheets=[WIDGET_STYLE], sizing_mode="stretch_width"
        )
        format_ = CustomJSTickFormatter(
            args={"clock": self.clock},
            code="const t = clock.data.time[Math.round(tick)]; return t === undefined ? '' : String(+t.toPrecision(5))",
        )
        self.slider = Slider(
            start=0, end=1, value=0, step=1, title=self.run.unit, format=format_, sizing_mode="stretch_width",
            stylesheets=[WIDGET_STYLE], margin=(5, 15, 5, 15),
        )  # fmt: skip
        self.offer(indices)
        args = {"cursors": self.cursors, "clock": self.clock, "slider": self.slider}
        move = "const x = clock.data.at[slider.value]; for (const c of cursors) c.location = x === undefined ? null : x"
        self.slider.js_on_change("value", CustomJS(args=args, code=move))
        tapped = CustomJS(args=args, code=_NEAREST)
        for panel in panels.panels:
            if panel.kind == "curves":
                self.figures[panel.name].js_on_event(Tap, tapped)

    def offer(self, indices: list[int]) -> None:
        """Let the slider move over the recorded times with these indices."""
        chosen = np.asarray(indices, dtype=np.int64)
        self.clock.data = {"at": self.panels.at(chosen), "time": self.run.times[chosen]}
        self.slider.end = max(1, len(indices) - 1)
        self.slider.disabled = len(indices) < 2
        names = ticks(self.run.times, self.run.unit)
        for panel in self.panels.panels:
            if panel.kind == "curves" and names:
                axis = self.figures[panel.name].xaxis[0]
                axis.ticker = FixedTicker(ticks=list(names))
                axis.major_label_overrides = dict(names)
        place = float(self.clock.data["at"][min(self.slider.value, len(indices) - 1)])
        for cursor in self.cursors:
            cursor.location = place

    def apply(self, payload: Payload, limits: dict[str, tuple[float, float]] | None = None) -> None:
        """Show the data of some panels, and set the scales of pictures."""
        for name, data in payload.items():
            if name in self.sources:
                self.sources[name].data = data
        for name, (low, high) in (limits or {}).items():
            self.mappers[name].low, self.mappers[name].high = low, high

    def layout(self, *controls: UIElement) -> UIElement:
        """The page: controls and the slider above, pictures and curves below, side by side as far as the width goes."""
        wrap = {"flex-wrap": "wrap", "gap": "8px"}
        pictures = [self.figures[p.name] for p in self.panels.panels if p.kind != "curves"]
        curves = [self.figures[p.name] for p in self.panels.panels if p.kind == "curves"]
        return column(
            self.status,
            row(*controls, styles=wrap, sizing_mode="stretch_width"),
            self.slider,
            row(*pictures, styles=wrap, sizing_mode="stretch_width"),
            row(*curves, styles=wrap, sizing_mode="stretch_width"),
            sizing_mode="stretch_width",
        )

    def _figure(self, panel: Panel) -> figure:
        plot = figure(
            name=panel.name,
            title=panel.title,
            width=_WIDTH,
            height=_TALL if panel.kind == "curves" else _HEIGHT,
            tools="pan,wheel_zoom,box_zoom,reset,save",
            toolbar_location="above",
            y_axis_type="log" if panel.log else "linear",
            x_axis_label=panel.x_label or None,
            y_axis_label=panel.y_label or None,
        )
        plot.toolbar.logo = None
        plot.toolbar.autohide = True
        plot.title.text_font_size = "14px"
        plot.axis.axis_label_text_color = plot.axis.major_label_text_color = plot.title.text_color = _INK
        plot.axis.axis_label_text_font_style = "normal"
        {"image": self._image, "tiles": self._tiles, "line": self._line, "bars": self._bars, "curves": self._curves}[
            panel.kind
        ](plot, panel)
        return plot

    def _source(self, name: str, *columns: str) -> ColumnDataSource:
        self.sources[name] = ColumnDataSource({column_: [] for column_ in columns})
        return self.sources[name]

    def _raster(self, plot: figure, panel: Panel, palette: list[str]) -> LinearColorMapper:
        mapper = LinearColorMapper(palette=palette, low=-1, high=1, nan_color="rgba(0, 0, 0, 0)")
        plot.x_range, plot.y_range = DataRange1d(range_padding=0), DataRange1d(range_padding=0)
        source = self._source(panel.name, "image", "dw", "dh")
        drawn = plot.image("image", x=0, y=0, dw="dw", dh="dh", color_mapper=mapper, source=source)
        if panel.kind == "image":
            plot.add_tools(HoverTool(renderers=[drawn], tooltips=[("value", "@image"), ("place", "$x{0}, $y{0}")]))
        plot.grid.visible = False
        plot.match_aspect = not panel.x_label  # pixels are squares
        plot.axis.visible = bool(panel.x_label)
        return mapper

    def _image(self, plot: figure, panel: Panel) -> None:
        mapper = self._raster(plot, panel, _diverging() if panel.signed else _GREY)
        self.mappers[panel.name] = mapper
        bar = ColorBar(color_mapper=mapper, width=10, padding=4, ticker=BasicTicker(desired_num_ticks=4),
                       major_label_text_color=_INK, label_standoff=4)  # fmt: skip
        plot.add_layout(bar, "right")
        if panel.name == "input":
            source = self._source("patch", "x", "y", "w", "h")
            plot.rect("x", "y", "w", "h", source=source, fill_alpha=0.0, line_color=_RED, line_width=2)

    def _tiles(self, plot: figure, panel: Panel) -> None:
        self._raster(plot, panel, _GREY)
        names = self._source("atom_names", "x", "y", "text")
        plot.text("x", "y", "text", source=names, text_font_size="11px", text_align="center", text_color=_INK,
                  text_baseline="bottom", background_fill_color="white", background_fill_alpha=0.8)  # fmt: skip

    def _line(self, plot: figure, panel: Panel) -> None:
        plot.line("x", "y", source=self._source(panel.name, "x", "y"), color=_BLUE)

    def _bars(self, plot: figure, panel: Panel) -> None:
        source = self._source(panel.name, "x", "y", "zero")
        plot.segment("x", "zero", "x", "y", source=source, color=_BLUE, line_width=2)
        drawn = plot.scatter("x", "y", source=source, color=_BLUE, size=4)
        plot.add_tools(HoverTool(renderers=[drawn], tooltips=[(panel.x_label, "@x"), ("output", "@y")]))
        plot.add_layout(Span(dimension="width", location=0, line_color=_INK, line_width=1))
        if panel.name == "code":
            numbers = self.run.numbers("code")
            plot.x_range = Range1d(int(numbers.min()) - 1, int(numbers.max()) + 1)
        if panel.name == "atoms":
            names = self._source("atom_names", "x", "y", "text")
            plot.text("x", "y", "text", source=names, text_font_size="10px", text_color=_INK, angle=0.6)
            plot.xaxis.ticker = BasicTicker(mantissas=[1, 2, 5], min_interval=1)
            plot.x_range.range_padding = plot.y_range.range_padding = 0.25

    def _curves(self, plot: figure, panel: Panel) -> None:
        source = self._source(panel.name, "xs", "ys", "name", "colour")
        drawn = plot.multi_line("xs", "ys", source=source, line_color="colour", line_width=1.5, legend_field="name")
        plot.add_tools(HoverTool(renderers=[drawn], tooltips=[("", "@name"), ("value", "$y")]))
        cursor = Span(dimension="height", location=0, line_color=_RED, line_width=1.5, line_dash="dashed")
        plot.add_layout(cursor)
        self.cursors.append(cursor)
        legend = plot.legend[0]
        legend.label_text_font_size, legend.label_height, legend.glyph_height = "10px", 12, 12
        legend.spacing, legend.padding, legend.margin, legend.background_fill_alpha = 8, 3, 4, 0.8
        plot.add_layout(legend, "below")
        legend.orientation, legend.ncols, legend.border_line_alpha = "horizontal", 4, 0.0


#: A tap on curves moves the slider to the nearest time that it has.
_NEAREST = """
const at = clock.data.at;
let best = 0;
for (let k = 1; k < at.length; k++) if (Math.abs(at[k] - cb_obj.x) < Math.abs(at[best] - cb_obj.x)) best = k;
if (at.length > 1) slider.value = best;
"""
