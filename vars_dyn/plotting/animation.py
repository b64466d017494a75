"""A recorded run in motion: stimulus, reconstruction and the most active neurons over time, as a GIF or a movie."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import GifImagePlugin, Image

from vars_dyn import _checks
from vars_dyn._files import replacing
from vars_dyn._version import __version__
from vars_dyn.movies import pyav
from vars_dyn.plotting.pictures import draw_signals, restored
from vars_dyn.plotting.style import INK, clock, colours, time_axis
from vars_dyn.recording.rebuilding import Reconstruction

__all__ = ["ANIMATION_SUFFIXES", "animate"]

#: The suffixes of animations, in lower case.
ANIMATION_SUFFIXES = (".gif", ".mp4")
#: The neurons whose potentials are drawn, and the bytes of states that are read from the store at once.
_LINES, _BLOCK = 8, 1 << 24
_INCHES, _DPI = (10.8, 4.0), 100


def animate(
    dataset: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    signal: int | None = None,
    images: int = 100,
    rate: float = 12.0,
    stimulus: Callable[[float], NDArray[Any]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write an animation of a run: its stimulus, its reconstruction, and the potentials of the most active neurons.

    Each image of the animation shows one recorded time. The states are read from the store and the images written one
    after another, so that the memory does not grow with the length of the run. The file appears whole, or not at all.

    Args:
        dataset: the run, with `code` or `z` of all neurons recorded. Without `code`, z is shown in place of the
            reconstruction, as for fields without encoding neurons.
        path: the file, a GIF or an MP4 (which wants PyAV).
        signal: the signal whose potentials are drawn; by default the one with the largest norm.
        images: the most images. Of more recorded times than that, evenly spread ones are shown.
        rate: images per second.
        stimulus: the signals (signal, *signal_shape) at a time, for a run whose input moves. By default the variable
            `x` of the dataset, which records them; where it is not there, the input is shown as it is at the start.
        progress: a function that is called after each image with the number of images done and of all.

    Raises:
        ValueError: for another suffix, a run that does not hold what is to be shown, and where PyAV is needed and is
            not there.
    """
    file = Path(path)
    if file.suffix.lower() not in ANIMATION_SUFFIXES:
        raise ValueError(f"the animation is {file}; a name ending in {' or '.join(ANIMATION_SUFFIXES)} is wanted")
    _checks.count("images", images)
    _checks.number("rate", rate, positive=True)
    scene = _Scene(dataset, signal, images, stimulus)
    kind = {".gif": _Gif, ".mp4": _Mp4}[file.suffix.lower()]
    with replacing(file) as partial, kind(partial, rate) as film:
        for number, image in enumerate(scene.images()):
            film.add(image)
            if progress is not None:
                progress(number + 1, len(scene.times))


class _Scene:
    """What the images show, and the figure that they are drawn into one after another."""

    def __init__(
        self,
        dataset: xr.Dataset,
        signal: int | None,
        images: int,
        stimulus: Callable[[float], NDArray[Any]] | None,
    ) -> None:
        x = dataset["signals"].to_numpy()
        if signal is not None and not 0 <= signal < len(x):
            raise ValueError(f"signal is {signal}; a number from 0 to {len(x) - 1} is wanted")
        # The signals are needed for every image, so they are read once. All else stays in the store.
        self._few = dataset[["signals"]].load()
        self._few.attrs = dataset.attrs
        self._dataset, self._stimulus = dataset, stimulus
        self._recorded = stimulus is None and "x" in dataset and dataset["x"].dims[1:] == dataset["signals"].dims
        self._codes = _is_whole(dataset, "code")
        if not self._codes and not _is_whole(dataset, "z"):
            raise ValueError("the run has neither code nor z of all neurons; a run that records one of them is wanted")
        self._rebuilt = Reconstruction(dataset) if self._codes else None
        count = dataset.sizes["time"]
        self.index = np.unique(np.round(np.linspace(0, count - 1, min(images, count))).astype(int))
        times, self.unit = clock(dataset)
        self.times = times[self.index]
        self._traced = next(name for name in ("u", "code", "z") if name in dataset)
        moving = self._recorded or stimulus is not None
        size, limits = self._survey(self.index if moving else self.index[:1])
        self.signal = int(size.argmax()) if signal is None else signal
        # Of an input that stays, the end of the run shows what it comes to; of one that moves, it is one of many.
        peaks = [np.abs(block).max(axis=0) for block in self._traces(self.index if moving else self.index[-1:])]
        self._lines = np.argsort(-np.max(peaks, axis=0), kind="stable")[:_LINES]
        self._limits = limits if moving else None

    def images(self) -> Iterator[NDArray[np.uint8]]:
        """The images (row, column, 3), one at a time."""
        figure = Figure(figsize=_INCHES, dpi=_DPI)
        canvas = FigureCanvasAgg(figure)
        left, middle = (figure.add_axes((x, 0.14, 0.27, 0.68)) for x in (0.055, 0.38))
        right = figure.add_axes((0.73, 0.14, 0.25, 0.68))
        self._draw_traces(right)
        cursor = right.axvline(self.times[0], color=INK, linewidth=1.0)
        name = "reconstruction" if self._codes else "neurons z"
        unit = self.unit[self.unit.index("(") + 1 : -1]
        for time, (shown, state) in zip(self.times, self._states(), strict=True):
            for ax, values, title in ((left, shown, "stimulus"), (middle, state, name)):
                ax.clear()
                draw_signals(ax, self._few, values, restore=True, bar=False, signal=self.signal, limits=self._limits)
                ax.set_title(title)
                ax.set_ylabel("")  # there is no room for it
            cursor.set_xdata([time, time])
            figure.suptitle(f"t = {time:.4g} {unit}", fontsize=11, color=INK)
            canvas.draw()
            yield np.asarray(canvas.buffer_rgba())[..., :3].copy()

    def _states(self) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Stimulus and reconstruction (or z) of one image after another."""
        for some in self._blocks("code" if self._codes else "z"):
            block = self._dataset["code" if self._codes else "z"].isel(time=some).to_numpy()
            for number, values in zip(some.tolist(), block, strict=True):
                yield self._shown(number), values if self._rebuilt is None else self._rebuilt(values)

    def _shown(self, number: int) -> NDArray[Any]:
        """The input at a recorded time."""
        if self._stimulus is not None:
            return np.asarray(self._stimulus(float(self._dataset["time"][number])))
        if self._recorded:
            return self._dataset["x"].isel(time=number).to_numpy()
        return self._few["signals"].to_numpy()

    def _survey(self, some: NDArray[Any]) -> tuple[NDArray[Any], tuple[float, float]]:
        """The sum of squares of each signal over the times `some`, and the least and the largest restored number."""
        size, low, high = np.zeros(self._few.sizes["signal"]), math.inf, -math.inf
        for number in some.tolist():
            values = self._shown(number)
            size += (values.reshape(len(size), -1) ** 2).sum(axis=1)
            whole = restored(self._few, values)
            low, high = min(low, float(whole.min())), max(high, float(whole.max()))
        return size, (low, high)

    def _traces(self, some: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """The traced variable (time, unit) of the drawn signal at the times `some`, in blocks."""
        for part in self._blocks(self._traced, some):
            block = self._dataset[self._traced].isel(time=part, signal=self.signal).to_numpy()
            yield block.reshape(len(part), -1)

    def _blocks(self, name: str, chosen: NDArray[Any] | None = None) -> Iterator[NDArray[Any]]:
        """The indices of the times, or those that are chosen, in parts that are read at once.

        A chunk of the store is thus read once or twice.
        """
        variable = self._dataset[name]
        size = variable.dtype.itemsize * math.prod(variable.shape[1:])
        length = max(1, _BLOCK // max(size, 1))
        index = self.index if chosen is None else chosen
        for start in range(0, len(index), length):
            yield index[start : start + length]

    def _draw_traces(self, ax: Axes) -> None:
        """Draw the most active neurons' potentials, of which the cursor shows the present."""
        values = np.concatenate([block[:, self._lines] for block in self._traces(self.index)])
        for line, shade in enumerate(colours(values.shape[1])):
            ax.plot(self.times, values[:, line], color=shade, linewidth=1.2)
        time_axis(ax, self.times, self.unit)
        label = {"u": "encoding neurons u", "code": "code a", "z": "neurons z"}[self._traced]
        many = f" of signal {self.signal}" if self._few.sizes["signal"] > 1 else ""
        ax.set_title(f"most active {label}{many}", fontsize=10)


def _is_whole(dataset: xr.Dataset, name: str) -> bool:
    """Whether a variable was recorded for all neurons or atoms."""
    return name in dataset and f"{name}_end" in dataset and dataset[name].dims[1:] == dataset[f"{name}_end"].dims


class _Film(ABC):
    """A file that takes one image after another."""

    def __enter__(self) -> _Film:
        return self

    @abstractmethod
    def add(self, image: NDArray[np.uint8]) -> None: ...

    @abstractmethod
    def __exit__(self, *_: object) -> None: ...


class _Gif(_Film):
    """An animated GIF. Pillow's own writer holds all images until the end; its parts write one at a time."""

    def __init__(self, path: Path, rate: float) -> None:
        self._file: IO[bytes] = path.open("wb")
        self._duration = max(20, round(1000 / rate))  # browsers slow down what is faster
        self._begun = False

    def add(self, image: NDArray[np.uint8]) -> None:
        indexed = Image.fromarray(image).quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        if not self._begun:
            about = {"loop": 0, "duration": self._duration, "comment": f"vars_dyn {__version__}".encode()}
            self._file.writelines(GifImagePlugin.getheader(indexed.copy(), info=about)[0])
            self._begun = True
        self._file.writelines(GifImagePlugin.getdata(indexed, duration=self._duration, include_color_table=True))

    def __exit__(self, *_: object) -> None:
        self._file.write(b";")
        self._file.close()


class _Mp4(_Film):
    """An MP4 with H.264, encoded by PyAV."""

    def __init__(self, path: Path, rate: float) -> None:
        self._av = pyav(f"{path.name}, an MP4,")
        self._container = self._av.open(str(path), "w", format="mp4")
        self._container.metadata["comment"] = f"vars_dyn {__version__}"
        self._stream = self._container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1000))
        self._stream.pix_fmt = "yuv420p"
        self._begun = False
        # One thread, and no frames that look far ahead: the same file each time, and little memory.
        self._stream.options = {"threads": "1", "rc-lookahead": "10", "crf": "20"}

    def add(self, image: NDArray[np.uint8]) -> None:
        even = image[: len(image) // 2 * 2, : image.shape[1] // 2 * 2]
        if not self._begun:
            self._stream.height, self._stream.width = even.shape[:2]
            self._begun = True
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        self._container.mux(self._stream.encode(frame))

    def __exit__(self, *_: object) -> None:
        if self._begun:
            self._container.mux(self._stream.encode())
        self._container.close()
