"""The script that runs the documentation: what it finds on a page, what it reports, and that it knows every page."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]

PAGE = """# A page

<!-- page: after docs/other.md -->

Run `python -m vars_dyn.simulate --lam 0.1` first.

```console
$ echo one \\
      two > out.txt
one two
$ cat out.txt
```

<!-- block: long -->
```python
a = 1
```

```yaml
# settings/a.yaml
lam: 1
```

```text
output
```

    pip install -e . && true

| command | what |
|---|---|
| `python -c pass` | nothing |
| `python -c 1` | nothing either |

```python
>>> 1 + 1
2
```

```json
{}
```
"""


@pytest.fixture(scope="module")
def blocks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_blocks", ROOT / "docs" / "run_blocks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["run_blocks"] = module
    spec.loader.exec_module(module)
    return module


def test_the_blocks_of_a_page(blocks: ModuleType) -> None:
    found = [(block.line, block.kind, block.text, block.note) for block in blocks.parse("page.md", PAGE)]
    assert found == [
        (5, "mention", "python -m vars_dyn.simulate --lam 0.1", ""),
        (8, "shell", "echo one \\\n      two > out.txt\ncat out.txt", ""),
        (16, "python", "a = 1", "long"),
        (20, "file", "# settings/a.yaml\nlam: 1", ""),
        (28, "shell", "pip install -e . && true", ""),
        (32, "shell", "python -c pass\npython -c 1", ""),
        (36, "doctest", ">>> 1 + 1\n2", ""),
        (41, "shown", "{}", ""),
    ]
    assert blocks.before(PAGE) == "docs/other.md"


def run(blocks: ModuleType, text: str, long: bool = False) -> list[tuple[str, str]]:
    """The reason why each block was left out, and the last line of its error."""
    results: list[tuple[object, str, str, float]] = []
    blocks.run_page(blocks.parse("page.md", text), long, results.append)
    return [(why, wrong) for _, why, wrong, _ in results]


def test_what_runs_and_what_fails_is_told(blocks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (
        "```yaml\n# a.yaml\nb: 2\n```\n\n```python\nfrom pathlib import Path\nx = Path('a.yaml').read_text()\n```\n\n"
        "```python\nassert 'b: 2' in x\n"
        "y = x + 1\n```\n\n```console\n$ grep -q b a.yaml\n$ false | cat\n```\n\n```python\n>>> 1 + 1\n3\n```\n\n"
        "<!-- block: bring data -->\n```python\nraise\n```\n\n<!-- block: long -->\n```python\nz = x\n```\n"
    )
    told = run(blocks, page)
    assert [why for why, _ in told] == ["", "", "", "", "", "bring data", "long"]
    assert [bool(wrong) for _, wrong in told] == [False, False, True, True, True, False, False]
    assert "page.md" in told[2][1]
    assert "line 13" in told[2][1]
    assert "exit status 1" in told[3][1]
    assert "Expected:\n    3" in told[4][1]
    assert run(blocks, page, long=True)[-1] == ("", "")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("python -m vars_dyn.nothing", "there is no vars_dyn.nothing"),
        ("python docs/examples/nothing.py x", "there is no docs/examples/nothing.py"),
        ("python -m vars_dyn.simulate --lam 1 --lamb 2", "--help does not name --lamb"),
    ],
)
def test_a_sentence_names_programs_that_exist(blocks: ModuleType, text: str, wrong: str) -> None:
    helps = {("vars_dyn.simulate",): "--lam LAM"}
    with pytest.raises(ValueError, match=wrong):
        blocks.check_mention(text, helps)
    blocks.check_mention("python -m vars_dyn.simulate --lam 1 > out.txt", helps)


def test_every_page_is_run_and_every_block_has_its_way(blocks: ModuleType) -> None:
    pages = blocks.pages()
    below = {str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts}
    included = {page for page in below if page.startswith(("docs/benchmarks/", "docs/gradients/"))}
    assert set(pages) == {"README.md", "CONTRIBUTING.md"} | below - included - {"docs/changelog.md"}
    unknown = [
        f"{block.place}: {block.note or 'no way to run it'}"
        for page in pages
        for block in blocks.parse(page, (ROOT / page).read_text())
        if block.kind == "shown"
        or (block.note and block.note != "long" and not block.note.startswith(("bring ", "elsewhere ")))
    ]
    assert not unknown, f"say in a comment how a block runs, as docs/run_blocks.py explains: {unknown}"


def test_extras_must_exist(blocks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".programs").mkdir()
    (tmp_path / ".programs" / "pip").write_text(blocks.PIP)
    (tmp_path / ".programs" / "pip").chmod(0o755)
    blocks.run_shell("pip install -e '.[test]'; pip install 'vars_dyn[movies,fast]'; pip install numpy")
    with pytest.raises(ValueError, match="no extra quick"):
        blocks.run_shell("pip install 'vars_dyn[quick]'")
