"""Checkpoints without digests, as earlier versions wrote them. Their files may be replaced."""

from __future__ import annotations

import json
from pathlib import Path


def without_digests(checkpoint: Path) -> None:
    """Remove the digests of a checkpoint's files from its state.json."""
    state = json.loads((checkpoint / "state.json").read_text())
    del state["sha256"]
    (checkpoint / "state.json").write_text(json.dumps(state))
