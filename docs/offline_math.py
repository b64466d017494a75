"""MathJax in one file beside the pages, so that formulas need no network.

The file comes from the npm package, once, by the npm client. It is kept in `docs/_build`, and its hash is checked.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

VERSION = "3.2.2"
MEMBER = "package/es5/tex-svg-full.js"
SHA256 = "a4354ff94fd868aea0cc6eaaa79a57fda0588646fc46ee3700a349ee0a11cbe6"


def bundled(folder: Path) -> Path | None:
    """The file in `folder`, fetched if need be; None where there is no npm, or no network at the first time."""
    path = folder / f"mathjax-{VERSION}.js"
    if not is_whole(path):
        npm = shutil.which("npm")
        if npm is None:
            return None
        with tempfile.TemporaryDirectory() as scratch:
            done = subprocess.run(
                [npm, "pack", "--silent", f"mathjax@{VERSION}"], cwd=scratch, capture_output=True, text=True
            )
            if done.returncode:
                return None
            with tarfile.open(next(Path(scratch).glob("*.tgz"))) as archive:
                source = archive.extractfile(MEMBER)
                found = source.read() if source is not None else b""
        if hashlib.sha256(found).hexdigest() != SHA256:
            raise ValueError(f"mathjax {VERSION} of the npm registry has another hash than the one in {__file__}")
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(found)
    return path


def is_whole(path: Path) -> bool:
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == SHA256
