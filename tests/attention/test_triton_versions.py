"""The kernels in several versions of Triton: which functions they may use, and that they compile for GPUs."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from triton.backends.compiler import GPUTarget
from triton.runtime import driver, jit

from vars_dyn.attention.reconstruct import triton as kernels
from vars_dyn.attention.reconstruct.triton import launch

FILES = [Path(kernels.__file__).with_name(name) for name in ("device.py", "forward.py", "backward.py")]

#: The functions of `triton.language` that mean the same in Triton 3.6 and 3.8, with their keywords that do, and the
#: types.
FUNCTIONS = {
    **dict.fromkeys(("arange", "exp", "maximum", "min", "max", "minimum", "num_programs", "program_id", "sqrt"), ()),
    **dict.fromkeys(("atomic_add", "sum", "trans", "where", "zeros", "constexpr"), ()),
    "dot": ("input_precision",),
    "load": ("mask", "other"),
    "store": ("mask",),
}
TYPES = {"constexpr", "float32", "int64"}


def faults(source: str, constants: Collection[str] = ()) -> Iterator[str]:
    """The places in a kernel file's source that two versions of Triton understand differently.

    `constants` has the names of `tl.constexpr` values that the file imports.
    """
    tree = ast.parse(source)
    constants = {*constants, *module_constants(tree)}
    calls = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        # If a constant stands left of an operator, Python calls the constant's method. In the interpreter of 3.8 that
        # method returns a constant that holds a tensor. Comparisons do not work with it, and it is always true.
        if isinstance(node, ast.BinOp | ast.Compare):
            left = node.left
            if isinstance(left, ast.Name) and left.id in constants:
                yield f"line {node.lineno}: the constant {left.id} stands left of an operator"
        if isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Name) and node.operand.id in constants:
            yield f"line {node.lineno}: the constant {node.operand.id} has a sign of its own"
        # `and`, `or` and `not` of tensors, and chains of comparisons, which hide an `and`, raise an error or make the
        # host wait for the device.
        if isinstance(node, ast.BoolOp) or (isinstance(node, ast.Compare) and len(node.ops) > 1):
            yield f"line {node.lineno}: a truth value of tensors; & and | are wanted"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "tl":
            if id(node) not in calls and node.attr not in TYPES:
                yield f"line {node.lineno}: tl.{node.attr} is not among the types that both versions have"
            if id(node) in calls and node.attr not in FUNCTIONS:
                yield f"line {node.lineno}: tl.{node.attr} is not among the functions that both versions have"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in FUNCTIONS:
            for word in node.keywords:
                if word.arg not in FUNCTIONS[node.func.attr]:
                    yield f"line {node.lineno}: {node.func.attr}'s {word.arg} is not alike in both versions"


def module_constants(tree: ast.Module) -> set[str]:
    """Names of the values X = tl.constexpr(...) of a module."""
    return {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("tl.constexpr(")
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def test_the_kernels_use_what_all_versions_of_triton_understand_alike() -> None:
    shared = set().union(*(module_constants(ast.parse(path.read_text())) for path in FILES))
    assert shared == {"EPS", "SPREAD", "MOST"}
    for path in FILES:
        assert list(faults(path.read_text(), shared)) == [], path.name


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("while high - low > SPREAD * high: pass", "left of an operator"),
        ("x = SPREAD > high", "left of an operator"),
        ("x = tl.maximum(-SPREAD, high)", "sign"),
        ("x = low < high and high < 1", "truth value"),
        ("x = 0 < low < high", "truth value"),
        ("x = tl.dot(low, high, allow_tf32=True)", "allow_tf32"),
        ("x = tl.sum(low, keep_dims=True)", "keep_dims"),
        ("x = tl.libdevice.exp(low)", "libdevice"),
        ("x = tl.clamp(low, 0, 1)", "clamp"),
    ],
)
def test_a_line_that_versions_take_differently_is_found(line: str, word: str) -> None:
    (found,) = faults(f"SPREAD = tl.constexpr(4e-6)\n{line}")
    assert word in found
    assert not list(faults("SPREAD = tl.constexpr(4e-6)\nwhile high - low > high * SPREAD: pass"))


class Absent:
    """A driver of Triton for a GPU that is not present, sufficient to compile for it."""

    def __init__(self, arch: int) -> None:
        self.target = GPUTarget("cuda", arch, 32)

    def get_current_device(self) -> int:
        return self.target.arch  # a kernel's cache is by device, so each architecture needs a number of its own

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self.target


@pytest.mark.parametrize(
    ("arch", "dtype"), [(80, torch.float32), (90, torch.bfloat16), (100, torch.float32), (120, torch.bfloat16)]
)
def test_the_kernels_compile_for_gpus(
    arch: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Compile the kernels for GPUs from the A100 to Blackwell, with the arguments that launches use."""
    if not isinstance(launch.forward.whole, jit.JITFunction):
        pytest.skip("Triton interprets in this process")
    usual, made = jit.JITFunction.run, []

    def run(kernel: Any, *given: Any, grid: Any, warmup: bool, **rest: Any) -> Any:
        compiled = usual(kernel, *given, grid=grid, warmup=True, **rest)
        made.append((kernel.fn.__module__.rsplit(".")[-1], kernel.fn.__name__, compiled.asm))
        return compiled

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(jit.JITFunction, "run", run)
    monkeypatch.setattr(driver, "_active", Absent(arch))
    for batch, tokens, processors in ((2, 32, 1), (1, 600, 132)):
        q, w = torch.zeros(batch, 2, tokens, 16, dtype=dtype), torch.zeros(2, 16, 32)
        plan = launch.launch_plan(q, 32, processors)
        _, kept = launch.reconstruction(q, w, q, 0.3, 3, plan, keep=True)
        launch.derivatives(q, w, q, q, kept, plan, in_projection=True)
    names = {f"{file}.{name}" for file, name, _ in made}
    assert names == {f"forward.{name}" for name in launch.forward.__all__} | {
        f"backward.{name}" for name in launch.backward.__all__ if name != "Small"
    }
    assert all(f".target sm_{arch}" in asm["ptx"] and len(asm["cubin"]) > 0 for _, _, asm in made)
