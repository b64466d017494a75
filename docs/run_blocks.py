"""Run every command and code block of the README and the documentation, in order, as a reader would.

    python docs/run_blocks.py [PAGES ...] [--long] [--list]

Each page gets an empty folder that looks like a clone. Its Python blocks share one namespace, and `>>>` goes to
doctest. Commands are run by bash. A block that begins with a comment that is a file's name, `# settings.yaml`, is
written to that file. Files that a reader would bring, such as `photo.jpg`, are made up, small. `pip` only looks whether
the extras exist: whoever calls this has installed the package. Commands inside of sentences are not run; it is checked
that the program and its options exist.

A comment before a block says how it differs: `<!-- block: long -->` takes minutes, `<!-- block: bring ImageNet -->`
needs what only the reader has, and `<!-- block: elsewhere .ci/run -->` is run by that. `<!-- page: after PAGE -->`
begins where another page ended. The exit status is 1 if a block failed.
"""

from __future__ import annotations

import argparse
import contextlib
import doctest
import io
import multiprocessing
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
#: What a clone has that blocks read and do not write.
READ = ("vars_dyn", "models", "experiments", "tests", "pyproject.toml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md")
#: Programs that begin a command, on an indented line or in a code span.
PROGRAMS = r"(?:python|pip|pytest|vars-dyn|sphinx-build|git)"

_COMMENT = re.compile(r"^<!-- (block|page): (.+?) -->$")
_FENCE = re.compile(r"^(\s*)(`{3,})\s*(.*?)\s*$")
_INDENTED = re.compile(rf"^ {{4}}(\$ )?{PROGRAMS} ")
_ROW = re.compile(rf"^\| `({PROGRAMS} [^`]+)`")
_SPAN = re.compile(r"`(python (?:-m \w|docs/)[^`]*)`")
_FILE = re.compile(r"^# ([\w./-]+\.\w+)$")


#: A block, why it was left out, its error, and the seconds it took.
Result = tuple["Block", str, str, float]


@dataclass(frozen=True)
class Block:
    """A block of a page: its kind, the text to run, the line where that begins, and what its comment says of it."""

    page: str
    line: int
    kind: str  # "python", "doctest", "shell", "file", "mention", "shown"
    text: str
    note: str = ""

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def first_line(self) -> str:
        return self.text.strip().partition("\n")[0]


def parse(page: str, text: str) -> list[Block]:
    """The blocks of a page, in order."""
    blocks: list[Block] = []
    lines = text.splitlines()
    note = ""
    i = 0
    while i < len(lines):
        start = i
        line = lines[i]
        i += 1
        if comment := _COMMENT.match(line):
            note = comment[2] if comment[1] == "block" else note
            continue
        if fence := _FENCE.match(line):
            indent, ticks, language = fence.groups()
            while i < len(lines) and lines[i].strip() != ticks:
                i += 1
            body = "\n".join(each.removeprefix(indent) for each in lines[start + 1 : i])
            i += 1
            kind, runs = of_language(language, body)
            if kind:
                blocks.append(Block(page, start + 2, kind, runs, note))
                note = ""
        elif _INDENTED.match(line) and (start == 0 or not lines[start - 1].strip()):
            while i < len(lines) and lines[i].startswith("    "):
                i += 1
            body = "\n".join(each[4:] for each in lines[start:i])
            blocks.append(Block(page, start + 1, "shell", commands(body) if "$ " in body else body, note))
            note = ""
        elif row := _ROW.match(line):
            found = [row[1]]
            while i < len(lines) and lines[i].startswith("|"):
                if row := _ROW.match(lines[i]):
                    found.append(row[1])
                i += 1
            blocks.append(Block(page, start + 1, "shell", "\n".join(found), note))
            note = ""
        elif not line.startswith("    "):
            blocks += [Block(page, start + 1, "mention", span) for span in _SPAN.findall(line)]
    return blocks


def of_language(language: str, body: str) -> tuple[str, str]:
    """The kind of a fenced block, and what of it is run; the kind of output and of directives is empty."""
    if _FILE.match(body.partition("\n")[0]):
        return "file", body
    match language:
        case "python" | "pycon":
            return ("doctest" if body.lstrip().startswith(">>>") else "python"), body
        case "console" | "bash" | "sh":
            return "shell", commands(body) if language == "console" else body
        case "" | "text" | "bibtex":
            return "", ""
        case _ if language.startswith("{"):
            return "", ""
        case _:
            return "shown", body


def commands(body: str) -> str:
    """The commands of a console: lines after `$ ` and those that continue them; the other lines are output."""
    kept = []
    goes_on = False
    for line in body.splitlines():
        if line.startswith("$ ") or goes_on:
            kept.append(line.removeprefix("$ ") if not goes_on else line)
            goes_on = line.endswith("\\")
    return "\n".join(kept)


def pages() -> list[str]:
    """All pages: the README, how to contribute, and the documentation in the order of its tables of contents."""
    found = ["README.md", "CONTRIBUTING.md"]

    def walk(page: Path) -> None:
        found.append(str(page.relative_to(ROOT)))
        for tree in re.findall(r"^```{toctree}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
            for entry in tree.split("\n"):
                target = page.parent / f"{entry}.md"
                if entry and not entry.startswith(":") and target.exists():
                    walk(target)

    walk(ROOT / "docs" / "index.md")
    found.remove("docs/changelog.md")
    return found


def before(text: str) -> str | None:
    """The page after which this one goes on."""
    said = [match[2] for line in text.splitlines() if (match := _COMMENT.match(line)) and match[1] == "page"]
    return said[0].removeprefix("after ") if said else None


# What a reader brings


def photograph(path: Path, size: tuple[int, int] = (48, 32)) -> None:
    import matplotlib.cbook
    from PIL import Image

    with Image.open(matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)) as image:
        image.convert("RGB").resize(size).save(path)


def photographs(path: Path, names: tuple[str, ...] = ("1.jpg", "2.jpg", "3.jpg")) -> None:
    path.mkdir(exist_ok=True)
    for i, name in enumerate(names):
        photograph(path / name, (48 + 16 * i, 48))


def numbers(path: Path, *shape: int) -> None:
    import numpy as np

    values = np.random.default_rng(0).standard_normal(shape)
    np.save(path, values / np.linalg.norm(values, axis=0))


def sound(path: Path) -> None:
    import numpy as np
    import scipy.io.wavfile

    t = np.arange(800) / 8000
    scipy.io.wavfile.write(path, 8000, (2**14 * np.sin(2 * np.pi * 440 * t) * np.exp(-t / 0.02)).astype(np.int16))


def drifting(count: int = 8) -> list[Any]:
    import numpy as np

    row, column = np.mgrid[:32, :48]
    return [(127.5 + 100 * np.sin(2 * np.pi * (row + column - t) / 8)).astype(np.uint8) for t in range(count)]


def movie(path: Path) -> None:
    import av

    with av.open(path, "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for picture in drifting():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "gray")))
        container.mux(stream.encode(None))


def frames(path: Path) -> None:
    from PIL import Image

    path.mkdir(exist_ok=True)
    for i, picture in enumerate(drifting()):
        Image.fromarray(picture).save(path / f"{i}.png")


def stack(path: Path) -> None:
    from PIL import Image

    first, *rest = (Image.fromarray(picture) for picture in drifting())
    first.save(path, save_all=True, append_images=rest)


BROUGHT: dict[str, Callable[[Path], None]] = {
    "photo.jpg": photograph,
    "folder/": photographs,
    "photographs/": photographs,
    "frames/": frames,
    "stack.tif": stack,
    "chime.wav": sound,
    "clip.mp4": movie,
    "grating.mp4": movie,
    "x.npy": lambda path: numbers(path, 6, 64),
    "atoms.npy": lambda path: numbers(path, 64, 96),
    **{f"{name}.png": photograph for name in ("bird", "plane", "horse")},
}


# Running


def clone(folder: Path) -> None:
    """Make a folder like a clone. What blocks read is linked; the documentation is copied, since some write to it."""
    for name in READ:
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("_build"))


def bring(folder: Path, text: str) -> None:
    """Make what the text names and a reader would have."""
    for name, make in BROUGHT.items():
        if re.search(rf"(?<![\w./-]){re.escape(name)}", text) and not (folder / name).exists():
            make(folder / name)


#: Stands for pip: it refuses extras that pyproject.toml does not have, and installs nothing.
PIP = f"""#!{sys.executable}
import re, sys, tomllib
known = tomllib.load(open({str(ROOT / "pyproject.toml")!r}, "rb"))["project"]["optional-dependencies"]
for extras in re.findall(r"^(?:\\.|vars_dyn)\\[(.*)\\]$", "\\n".join(sys.argv[1:]), re.MULTILINE):
    for extra in extras.split(","):
        if extra not in known:
            sys.exit(f"pyproject.toml has no extra {{extra}}")
"""


def run_shell(text: str) -> None:
    """Run commands by bash, with this interpreter as `python`; ValueError with the end of their output if one fails."""
    path = f"{Path.cwd() / '.programs'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "MPLBACKEND": "agg", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
    )  # fmt: skip
    if done.returncode:
        raise ValueError(f"exit status {done.returncode}\n" + "\n".join(done.stdout.splitlines()[-15:]))


def run_python(block: Block, names: dict[str, Any]) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile("\n" * (block.line - 1) + block.text, block.page, "exec"), names)


def run_doctest(block: Block, names: dict[str, Any]) -> None:
    test = doctest.DocTestParser().get_doctest(block.text + "\n", names, block.page, block.page, block.line - 1)
    said: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=said.append, clear_globs=False)
    names.update(test.globs)
    if said:
        raise ValueError("".join(said))


def check_mention(text: str, helps: dict[tuple[str, ...], str]) -> None:
    """Look whether a program that a sentence names exists, and has the options; ValueError if not."""
    words = re.split(r"\s+", text.partition(" > ")[0].partition(" | ")[0])
    by_module = words[1] == "-m"
    name = words[2] if by_module else words[1]
    if name.rpartition(".")[2].isupper():
        return  # it stands for any command
    path = ROOT / (name.replace(".", "/") if by_module else name)
    if not any(p.exists() for p in ((path / "__main__.py", path.with_suffix(".py")) if by_module else (path,))):
        raise ValueError(f"there is no {name}")
    options = [word.partition("=")[0].strip("[]") for word in words if word.lstrip("[").startswith("--")]
    if not by_module or not options:
        return
    key = (name, *(w for w in words[3:4] if re.fullmatch(r"[a-z]+", w)))
    if key not in helps:
        helps[key] = help_of(*key) or help_of(name)
    unknown = [each for each in options if each not in helps[key]]
    if unknown:
        raise ValueError(f"{' '.join(key)} --help does not name {', '.join(unknown)}")


def help_of(name: str, *arguments: str) -> str:
    """What `python -m name arguments --help` prints, without a process of its own, which would import torch again."""
    said, before = io.StringIO(), sys.argv
    sys.argv = [name, *arguments, "--help"]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return said.getvalue() if not end.code else ""
    finally:
        sys.argv = before
    return said.getvalue()


def left_out(block: Block, long: bool) -> str:
    """Why a block is not run, or an empty string."""
    if block.note.startswith(("bring ", "elsewhere ")) or (block.note == "long" and not long):
        return block.note
    return "shown, not run" if block.kind == "shown" else ""


def run_page(blocks: list[Block], long: bool, report: Callable[[Result], object]) -> None:
    """Run the blocks of a page in the folder where the process stands, and report each one."""
    names: dict[str, Any] = {"__name__": "__main__"}
    helps: dict[tuple[str, ...], str] = {}
    for block in blocks:
        why = left_out(block, long)
        began = time.perf_counter()
        wrong = ""
        if not why:
            try:
                match block.kind:
                    case "file":
                        file = Path(block.first_line.removeprefix("# "))
                        file.parent.mkdir(parents=True, exist_ok=True)
                        file.write_text(block.text + "\n")
                    case "shell":
                        run_shell(block.text)
                    case "python":
                        run_python(block, names)
                    case "doctest":
                        run_doctest(block, names)
                    case "mention":
                        check_mention(block.text, helps)
            except ValueError as error:
                wrong = "".join(traceback.format_exception_only(error)[-1:])
                if block.kind == "python":
                    wrong = traceback.format_exc(limit=-3)
            except BaseException:
                wrong = traceback.format_exc(limit=-3)
        report((block, why, wrong, time.perf_counter() - began))


def run(chosen: list[str], long: bool, scratch: Path) -> Iterator[Result]:
    """Run pages one after another, each in its own process and folder; yields block, why left out, error, seconds."""
    context = multiprocessing.get_context("fork")
    folders: dict[str, Path] = {}
    for number, page in enumerate(chosen):
        text = (ROOT / page).read_text(encoding="utf-8")
        earlier = before(text)
        if earlier is not None and earlier in folders:
            folder = folders[earlier]
        else:
            folder = scratch / str(number)
            (folder / ".programs").mkdir(parents=True)
            clone(folder)
            (folder / ".programs" / "pip").write_text(PIP)
            (folder / ".programs" / "pip").chmod(0o755)
        folders[page] = folder
        blocks = parse(page, text)
        bring(folder, "\n".join(block.text for block in blocks if block.kind != "mention"))
        reader, writer = context.Pipe(duplex=False)

        def work(folder: Path = folder, blocks: list[Block] = blocks, writer: Any = writer) -> None:
            os.chdir(folder)
            sys.path.insert(0, str(folder))
            run_page(blocks, long, writer.send)

        process = context.Process(target=work)
        process.start()
        writer.close()
        for block in blocks:
            try:
                yield reader.recv()
            except EOFError:
                process.join()
                yield block, "", f"the process of the page ended with {process.exitcode} before this block's end", 0.0
        process.join()


def with_needed(chosen: list[str]) -> list[str]:
    """The pages, each after the one where it goes on."""
    found: list[str] = []
    for page in chosen:
        earlier = before((ROOT / page).read_text(encoding="utf-8"))
        found += [each for each in ([earlier] if earlier else []) + [page] if each not in found]
    return found


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pages", nargs="*", metavar="PAGE", help="README.md, docs/quickstart.md, ... (default: all)")
    parser.add_argument("--long", action="store_true", help="also run the blocks that take minutes")
    parser.add_argument("--list", action="store_true", help="print the blocks instead of running them")
    options = parser.parse_args(argv)
    unknown = [page for page in options.pages if not (ROOT / page).is_file()]
    if unknown:
        parser.error(f"there is no page {unknown[0]}")
    chosen = with_needed(options.pages or pages())
    if options.list:
        for page in chosen:
            for block in parse(page, (ROOT / page).read_text(encoding="utf-8")):
                print(f"{block.place}: {block.kind}{f' ({block.note})' if block.note else ''}: {block.first_line}")
        return 0
    import timm  # noqa: F401  with torch, for the processes of all pages

    counts: Counter[str] = Counter()
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        for block, why, wrong, seconds in run(chosen, options.long, Path(scratch)):
            word = "failed" if wrong else why or ("checked" if block.kind == "mention" else "ran")
            counts[word] += 1
            if block.kind != "mention" or wrong:
                print(f"{block.place}: {word}, {seconds:.1f} s: {block.first_line}", flush=True)
            if wrong:
                failed.append(block)
                print(wrong, flush=True)
    print(f"\n{len(chosen)} pages: " + ", ".join(f"{count} {word}" for word, count in sorted(counts.items())))
    for block in failed:
        print(f"failed: {block.place}: {block.first_line}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
