"""Make the pictures of the gallery, their thumbnails, and the page docs/gallery.md.

Run it from the root of a clone as `python docs/examples/gallery.py [NAMES ...]`. It makes the pictures that are named
or missing, each by its command, and then all thumbnails and the page. Commands that need a trained model or minutes are
marked so on the page; their pictures are only made when they are named.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT = 400, 260


@dataclass(frozen=True)
class Entry:
    """A picture: its file below docs, title, what it shows, the commands that make it, the source and the page."""

    picture: str
    title: str
    shows: str
    commands: tuple[str, ...]
    source: str
    page: str
    note: str = ""

    @property
    def name(self) -> str:
        return str(Path(self.picture.removeprefix("_static/")).with_suffix("")).replace("/", "-")


SIMULATE = "vars_dyn/simulate/run.py"
ENTRIES = (
    Entry(
        "_static/settling.gif",
        "Neurons settle on a photograph",
        "What they see, what they reconstruct, and the most active of them.",
        (
            "python -m vars_dyn.simulate --overwrite --out settling.zarr",
            "python docs/examples/settling.py settling.zarr docs/_static/settling.gif",
        ),
        "docs/examples/settling.py",
        "howto/movies.md",
    ),
    Entry(
        "_static/default-run.png",
        "A run at a glance",
        "Reconstruction, residual, atoms, potentials and convergence.",
        ("python -m vars_dyn.simulate --overwrite --out run.zarr --figure docs/_static/default-run.png",),
        SIMULATE,
        "quickstart.md",
    ),
    Entry(
        "_static/concepts/code.png",
        "A patch is a sum of atoms",
        "The five largest entries of a code, and what they leave.",
        ("python docs/examples/concepts.py",),
        "docs/examples/concepts.py",
        "concepts.md",
    ),
    Entry(
        "_static/concepts/certificate.png",
        "Two bounds that meet",
        "Neurons compete; the duality gap closes.",
        ("python docs/examples/concepts.py",),
        "docs/examples/concepts.py",
        "concepts.md",
    ),
    Entry(
        "_static/cluttered-digit.png",
        "A digit in clutter",
        "What the dictionary explains emerges, and clutter fades.",
        ("python docs/examples/cluttered_digit.py docs/_static/cluttered-digit.png",),
        "docs/examples/cluttered_digit.py",
        "cluttered_digit.md",
    ),
    Entry(
        "gallery/lesion.png",
        "A lesion on the way",
        "The most active neuron is removed at time 40; others take over.",
        ("python docs/examples/lesion.py docs/gallery/lesion.png",),
        "docs/examples/lesion.py",
        "tutorials/lesion_and_cue.md",
    ),
    Entry(
        "gallery/cue.png",
        "A cue from above",
        "Two digits, one over the other, and a hierarchy that is told which one to expect.",
        ("python -m experiments.cue --out docs/gallery/cue.png",),
        "experiments/cue.py",
        "tutorials/lesion_and_cue.md",
    ),
    Entry(
        "gallery/tuning.png",
        "Sharper tuning by competition",
        "Orientation tuning of filters, and of neurons that compete.",
        ("python docs/examples/tuning.py docs/gallery/tuning.png",),
        "docs/examples/tuning.py",
        "tutorials/tuning.md",
    ),
    Entry(
        "gallery/grating.png",
        "A grating that drifts",
        "Stimulus and reconstruction over time, and how far the code is behind.",
        (
            "python -m vars_dyn.simulate --stimulus grating --overwrite --out grating.zarr "
            "--figure docs/gallery/grating.png",
        ),
        SIMULATE,
        "howto/stimuli.md",
    ),
    Entry(
        "_static/tracking-gap.png",
        "How far behind the input",
        "The tracking gap against the speed of a grating.",
        ("python docs/examples/moving_input.py docs/_static/tracking-gap.png",),
        "docs/examples/moving_input.py",
        "howto/stimuli.md",
    ),
    Entry(
        "_static/naive-adjoint.png",
        "Why the plain adjoint fails",
        "Backwards in time, errors grow as fast as they shrink forwards.",
        ("python docs/examples/naive_adjoint.py docs/_static/naive-adjoint.png",),
        "docs/examples/naive_adjoint.py",
        "gradients.md",
    ),
    Entry(
        "howto/movies.gif",
        "A movie as one signal",
        "A drifting grating, coded by Gabor functions that drift.",
        (),
        SIMULATE,
        "howto/movies.md",
        "its commands are on the page",
    ),
    Entry(
        "learning/natural-atoms.png",
        "Atoms of photographs",
        "Learned atoms are localised, oriented and band-pass.",
        (
            "python -m vars_dyn.learn --steps 1000 --out natural",
            "python docs/examples/natural_atoms.py natural/dictionary.safetensors docs/learning/natural-atoms.png",
        ),
        "docs/examples/natural_atoms.py",
        "learning.md",
        "three minutes",
    ),
    Entry(
        "learning/sounds.png",
        "Atoms of sounds",
        "They begin sharply and ring, as cochlear filters do.",
        ("python docs/examples/learned_sounds.py docs/learning/sounds.png",),
        "docs/examples/learned_sounds.py",
        "learning.md",
        "a minute",
    ),
    Entry(
        "learning/movies.png",
        "Atoms of movies",
        "Most of them move.",
        ("python docs/examples/learned_movies.py docs/learning/movies.png",),
        "docs/examples/learned_movies.py",
        "learning.md",
        "two minutes",
    ),
    Entry(
        "howto/sweep/lam.png",
        "A sweep over lambda",
        "Sparser codes reconstruct less and settle sooner.",
        ("python -m experiments.sweep --config experiments/configs/sweep/lam.yaml --figure docs/howto/sweep/lam.png",),
        "experiments/configs/sweep/lam.yaml",
        "howto/sweep.md",
        "minutes",
    ),
    Entry(
        "howto/paper/updates.gif",
        "Attention, update by update",
        "The maps of a VARS layer as it reconstructs.",
        (
            "python -m experiments.figures updates --models '[runs/vars_d]' --images '[plane.png,bird.png,horse.png]' "
            "--num_steps 7 --animation docs/howto/paper/updates.gif --out docs/howto/paper/updates.png",
        ),
        "experiments/figures.py",
        "howto/paper.md",
        "needs a trained model",
    ),
    Entry(
        "howto/paper/atoms.png",
        "Atoms of a dynamic dictionary",
        "Groups of tokens that a head uses most, as masks.",
        (
            "python -m experiments.figures atoms --models '[runs/vars_d]' --images '[plane.png,bird.png,horse.png]' "
            "--out docs/howto/paper/atoms.png",
        ),
        "experiments/figures.py",
        "howto/paper.md",
        "needs a trained model",
    ),
)


def thumbnail(entry: Entry) -> None:
    """Write the thumbnail: the picture, or the middle of an animation, on white."""
    with Image.open(DOCS / entry.picture) as image:
        image.seek(getattr(image, "n_frames", 1) // 2)
        small = image.convert("RGB")
    small.thumbnail((WIDTH, HEIGHT), Image.Resampling.LANCZOS)
    ground = Image.new("RGB", (WIDTH, HEIGHT), "white")
    ground.paste(small, ((WIDTH - small.width) // 2, (HEIGHT - small.height) // 2))
    (DOCS / "gallery").mkdir(exist_ok=True)
    ground.quantize(64).save(DOCS / "gallery" / f"thumb-{entry.name}.png", optimize=True)


def page() -> str:
    """The text of docs/gallery.md."""
    cards = [
        f":::{{grid-item-card}} {entry.title}\n:img-top: gallery/thumb-{entry.name}.png\n"
        f":link: {entry.page.removesuffix('.md')}\n:link-type: doc\n\n{entry.shows}\n:::\n"
        for entry in ENTRIES
    ]
    rows = [
        f"| [{entry.title}]({entry.picture}) | {'<br>'.join(f'`{command}`' for command in entry.commands) or '-'} "
        f"| {entry.note or '-'} | {{download}}`{Path(entry.source).name} <../{entry.source}>` |"
        for entry in ENTRIES
    ]
    return "\n".join([
        "# Gallery", "", "Each picture leads to the page that explains it. The table below has commands and sources.",
        "", "::::{grid} 1 2 3 3", ":gutter: 3", "", *cards, "::::", "", "## How they are made", "",
        "`python docs/examples/gallery.py NAME` runs the commands of a picture, from the root of a clone. Without a",
        "name it makes those that are missing, all thumbnails, and this page.", "",
        "| picture | commands | takes or needs | source |", "|---|---|---|---|", *rows, "",
    ])  # fmt: skip


def make(entry: Entry) -> None:
    for command in entry.commands:
        print(command, flush=True)
        words = shlex.split(command)
        (DOCS / entry.picture).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, *words[1:]], check=True, cwd=DOCS.parent)


def main(names: list[str]) -> None:
    known = {entry.name: entry for entry in ENTRIES}
    if unknown := [name for name in names if name not in known]:
        raise SystemExit(f"there is no {unknown[0]}; one of {', '.join(known)} is wanted")
    for name, entry in known.items():
        if name in names or not (DOCS / entry.picture).exists():
            make(entry)
    for entry in ENTRIES:
        thumbnail(entry)
    (DOCS / "gallery.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
