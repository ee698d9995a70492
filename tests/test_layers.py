"""Imports point one way: passes and the runtime know the plan and not each other; only driver and planning know both.

Read from the source, without importing it, so that a broken module cannot hide a wrong import.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from setuptools import find_packages

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ffcompiler"

# A layer is a module or folder directly inside the package. It must not reach these, directly or through others.
ABOVE = frozenset({"driver", "planning", "cli", "artifact", "stored", "tell", "zoo", "bench", "__init__", "__main__"})
MUST_NOT_REACH = {
    "passes": ABOVE | {"runtime"},
    "runtime": ABOVE | {"passes"},
    "plan": ABOVE | {"passes", "runtime", "torch"},
}
KNOW_BOTH = frozenset({"driver", "planning", "cli", "bench", "__init__", "__main__"})  # passes and runtime
LOAD_LATE = frozenset({"cli", "__init__"})  # may import inside functions; ruff's per-file-ignores say the same
LINKS = frozenset({"passes", "runtime"})  # the links at the repository root, importable by accident from there

Module = tuple[str, ...]  # ("passes", "reroll"); the package itself is ("__init__",); a foreign one is ("torch",)


@dataclass(frozen=True, slots=True)
class Import:
    """One import of `target` at `line`; `own`: a module of the package, written relative."""

    target: Module
    line: int
    own: bool
    inside_function: bool


def violations(package: Path) -> list[str]:
    """Every import in the tree under `package` that breaks a rule, as `file:line: what is wrong`."""
    files = {_module(file.relative_to(package)): file for file in sorted(package.rglob("*.py"))}
    imports = {module: list(_imports(file, package, files.keys())) for module, file in files.items()}
    found = []
    for module, file in files.items():
        where = file.relative_to(package.parent).as_posix()
        found += [f"{where}:{i.line}: {wrong}" for i in imports[module] for wrong in _local_faults(module, i, package)]
        found += [f"{where}: {wrong}" for wrong in _reach_faults(module, imports)]
    return found


def _local_faults(module: Module, i: Import, package: Path) -> Iterator[str]:
    name = ".".join(i.target)
    if not i.own and i.target[0] == package.name:
        yield f"import {name} must be relative: absolute ones can load a module twice"
    if not i.own and i.target[0] in LINKS:
        yield f"import {name} goes through a link at the repository root"
    if i.inside_function and module[0] not in LOAD_LATE:
        yield f"import {name} inside a function"


def _reach_faults(module: Module, imports: dict[Module, list[Import]]) -> Iterator[str]:
    nearest = {path[-1][0]: path for path in reversed(_paths(module, imports).values())}
    for layer in sorted(nearest.keys() & MUST_NOT_REACH.get(module[0], set())):
        yield f"{module[0]} must not know {layer}: " + " -> ".join(".".join(m) for m in nearest[layer])
    known = {i.target[0] for i in imports[module] if i.own} | {module[0]}
    if known >= {"passes", "runtime"} and module[0] not in KNOW_BOTH | {"passes", "runtime"}:
        yield "knows both passes and runtime; only the driver and its planning may"


def _paths(start: Module, imports: dict[Module, list[Import]]) -> dict[Module, tuple[Module, ...]]:
    """Every module that `start` loads, its own or foreign, with a shortest chain of imports that leads there."""
    paths: dict[Module, tuple[Module, ...]] = {start: (start,)}
    queue = [start]
    for module in queue:
        for i in imports.get(module, ()):
            if i.target not in paths:
                paths[i.target] = (*paths[module], i.target)
                queue += [i.target] if i.own else []
    del paths[start]
    return paths


def _imports(file: Path, package: Path, modules: Set[Module]) -> Iterator[Import]:
    folder = file.parent.relative_to(package).parts
    for node, inside in _import_statements(ast.parse(file.read_text(encoding="utf-8"), str(file)), False):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(tuple(alias.name.split(".")), node.lineno, False, inside)
        elif node.level == 0:
            yield Import(tuple((node.module or "").split(".")), node.lineno, False, inside)
        else:
            base = (*folder[: len(folder) - node.level + 1], *(node.module or "").split("."))
            for target in _resolve(tuple(filter(None, base)), [alias.name for alias in node.names], modules):
                yield Import(target, node.lineno, True, inside)


def _resolve(base: Module, names: list[str], modules: Set[Module]) -> set[Module]:
    """The modules that `from base import names` loads: a name may be a module itself, or something that base has."""
    return {(*base, name) if (*base, name) in modules else base or ("__init__",) for name in names}


def _import_statements(node: ast.AST, inside: bool) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, inside
        else:
            yield from _import_statements(child, inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))


def _module(path: Path) -> Module:
    """`passes/reroll.py` is ("passes", "reroll"), `passes/__init__.py` is ("passes",)."""
    parts = path.with_suffix("").parts
    return parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts


def test_the_package_keeps_its_layers():
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "source", "fault"),
    [
        ("passes/a.py", "from ..runtime import solve", "passes must not know runtime"),
        ("passes/a.py", "from .. import runtime", "passes must not know runtime"),
        ("passes/deep/a.py", "from ...runtime.solve import solve", "passes must not know runtime"),
        ("passes/a.py", "from .. import compile", "passes must not know __init__"),
        ("passes/a.py", "from ..helper import x", "passes must not know runtime: passes.a -> helper -> runtime"),
        ("passes/a.py", "if TYPE_CHECKING:\n    from ..runtime import solve", "passes must not know runtime"),
        ("runtime/a.py", "from ..passes import reroll", "runtime must not know passes"),
        ("runtime/a.py", "from ..driver import compile", "runtime must not know driver"),
        ("runtime/__init__.py", "from ..zoo import made", "runtime must not know zoo"),
        ("plan.py", "import torch", "plan must not know torch"),
        ("plan.py", "from torch.nn import Module", "plan must not know torch"),
        ("plan.py", "from .uses_torch import x", "plan must not know torch: plan -> uses_torch -> torch"),
        ("explain.py", "from .passes import a\nfrom .runtime import b", "knows both passes and runtime"),
        ("graph.py", "import ffcompiler.plan", "graph.py:1: import ffcompiler.plan must be relative"),
        ("graph.py", "from ffcompiler import plan", "graph.py:1: import ffcompiler must be relative"),
        ("graph.py", "import passes.reroll", "graph.py:1: import passes.reroll goes through a link"),
        ("graph.py", "def f():\n    import json", "graph.py:2: import json inside a function"),
        ("graph.py", "class A:\n    async def f(self):\n        from . import plan", "import plan inside a function"),
    ],
)
def test_a_planted_violation_is_found(tmp_path, file, source, fault):
    package = _plant(tmp_path, {file: source})
    assert [v for v in violations(package) if fault in v], violations(package)


def test_what_is_allowed_is_not_reported(tmp_path):
    both = "from .passes import reroll\nfrom .runtime import solve\n"
    package = _plant(
        tmp_path,
        {
            "driver.py": both,
            "cli.py": "def main():\n    from .driver import compile\n",
            "__init__.py": "def __getattr__(name):\n    from . import driver\n    return driver\n",
            "passes/reroll.py": "import torch\nfrom ..plan import Plan\nfrom .window import f\n",
            "passes/window.py": "",
            "runtime/solve.py": "from .. import plan\n",
        },
    )
    assert violations(package) == []


def _plant(folder: Path, files: dict[str, str]) -> Path:
    tree = {
        "__init__.py": "",
        "plan.py": "",
        "driver.py": "",
        "passes/__init__.py": "",
        "runtime/__init__.py": "",
        "runtime/solve.py": "",
        "zoo/__init__.py": "",
        "helper.py": "from .runtime import x",
        "uses_torch.py": "import torch",
    }
    for name, source in (tree | files).items():
        path = folder / "ffcompiler" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source, encoding="utf-8")
    return folder / "ffcompiler"


def test_importing_the_package_loads_nothing_through_the_root_links():
    """Run from the repository root, where `import passes` would succeed and load every pass a second time."""
    code = (
        "import sys, pkgutil, importlib, ffcompiler\n"
        "for m in pkgutil.walk_packages(ffcompiler.__path__, 'ffcompiler.'):\n"
        "    m.name.endswith('__main__') or importlib.import_module(m.name)\n"
        "sys.exit(', '.join(sorted({'passes', 'runtime'} & set(sys.modules))) or 0)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_every_folder_with_code_is_a_package_that_the_wheel_takes():
    include = _setuptools_options()["packages"]["find"]["include"]
    folders = {".".join(f.parent.relative_to(ROOT).parts) for f in PACKAGE.rglob("*.py")}
    assert folders == set(find_packages(str(ROOT), include=include))


def test_every_data_file_is_one_that_the_wheel_takes():
    patterns = _setuptools_options()["package-data"]["ffcompiler"]
    taken = {file for pattern in patterns for file in PACKAGE.glob(pattern)}
    present = {f for f in PACKAGE.rglob("*") if f.is_file() and f.suffix != ".py" and f.parent.name != "__pycache__"}
    assert sorted(present - taken) == [], "list them under [tool.setuptools.package-data]"


def test_the_root_links_lead_into_the_package():
    for name in sorted(LINKS):
        assert (ROOT / name).resolve() == PACKAGE / name


def _setuptools_options() -> dict[str, Any]:
    options: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return options["tool"]["setuptools"]
