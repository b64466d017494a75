"""Sphinx configuration; `sphinx-build -W docs docs/_build/html` builds the site."""

import importlib.metadata
import os
import re
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import inventories  # noqa: E402
from offline_math import bundled  # noqa: E402

os.environ.setdefault("MPLBACKEND", "agg")

project = "vars_dyn"
author = "The vars_dyn developers"
project_copyright = "2026, The vars_dyn developers"
release = importlib.metadata.version("vars_dyn")
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build", "gradients/*", "benchmarks/*"]
bibtex_bibfiles = ["references.bib"]

# Names of other projects. Where their sites cannot be reached, short lists serve.
inventories.write(HERE / "_build" / "inventories")
intersphinx_mapping = {
    "numpy": ("https://numpy.org/doc/stable/", (None, "_build/inventories/numpy.inv")),
    "python": ("https://docs.python.org/3/", (None, "_build/inventories/python.inv")),
    "timm": ("https://huggingface.co/docs/timm/", "_build/inventories/timm.inv"),
    "torch": ("https://docs.pytorch.org/docs/stable/", (None, "_build/inventories/torch.inv")),
    "xarray": ("https://docs.xarray.dev/en/stable/", (None, "_build/inventories/xarray.inv")),
}
intersphinx_timeout = 5

myst_enable_extensions = ["amsmath", "dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
myst_dmath_double_inline = True

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
default_role = "code"
highlight_language = "none"
smartquotes_action = "D"  # dashes; quotes are primes more often than not
python_maximum_signature_line_length = 72
add_module_names = False

html_theme = "furo"
html_title = "vars_dyn"
html_static_path = ["_static"]
if MATHJAX := bundled(HERE / "_build" / "mathjax"):
    html_static_path.append("_build/mathjax")
    mathjax_path = MATHJAX.name
html_css_files = ["custom.css"]
html_theme_options = {"navigation_with_keys": True}
html_show_sourcelink = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

_CODE = re.compile(r"(``.+?``|`[^`]+`)")
_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns|Yields|Example|Examples|Note):$")
_TUPLE_FIELD = type(namedtuple("_", "field").field)


def _plain_text(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Formulas in docstrings are plain text: |a| and *any are no markup, and indented formulas keep their lines."""
    if what == "module" and options.exclude_members:
        lines.clear()  # a page that documents some of a module by itself has its docstring above
    verbatim = example = False
    for i, line in enumerate(lines):
        example = bool(line.strip()) and (example or line.lstrip().startswith(">>>"))
        if example:
            continue
        indented = line.startswith("    ")
        if verbatim and line and not indented:
            verbatim = False
        opens = line.endswith(":") and not indented and not _SECTION.match(line)
        if opens and [text[:4] for text in lines[i + 1 : i + 3]] == ["", "    "]:
            verbatim = True
            lines[i] = line + ":"
        if verbatim and indented:
            continue
        parts = _CODE.split(lines[i])
        parts[::2] = [re.sub(r"([*|]|_(?=\W|$))", r"\\\1", part) for part in parts[::2]]
        lines[i] = "".join(parts)
    if what in ("attribute", "data", "property") and lines:
        lines[0] = ":" + lines[0]  # or napoleon takes what stands before a colon for a type


def _skip(app: Any, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool:
    """A named tuple's fields are documented in its docstring."""
    return skip or isinstance(obj, _TUPLE_FIELD)


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", _plain_text, priority=100)  # before napoleon
    app.connect("autodoc-skip-member", _skip)
