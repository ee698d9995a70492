"""What every test gets: a fixed seed, `gpu` tests skipped where there is none, golden text."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import hypothesis
import pytest
import torch

GOLDEN = Path(__file__).parent / "golden"


class TorchGenerator:
    """Lets hypothesis start every example from the same state of torch's default generator."""

    seed = staticmethod(torch.manual_seed)
    getstate = staticmethod(torch.get_rng_state)
    setstate = staticmethod(torch.set_rng_state)


_torch_generator = TorchGenerator()  # hypothesis keeps a weak reference only
hypothesis.register_random(_torch_generator)
# no deadline: torch's first call of an op is slow; derandomised: a failure in CI is a failure everywhere
hypothesis.settings.register_profile("ffcompiler", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ffcompiler")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the expected text under tests/golden")


def pytest_configure(config: pytest.Config) -> None:
    """Several workers share the processors (`pytest -n auto`): together they start no more threads than those."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0"))
    if workers:
        torch.set_num_threads(max(1, torch.get_num_threads() // workers))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs CUDA")


@pytest.fixture(scope="session", autouse=True)
def _no_plan_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests measure for themselves, and leave the user's own cache alone; `test_cache.py` switches one on."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("FFCOMPILER_CACHE", "0")
        environment.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One torch thread for a whole module: small operators wait for each other with more, and some round otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Golden:
    """The expected text of one test, kept in `tests/golden/<module>/<test>.txt`.

    `golden(text)` and `assert text == golden` both fail with the difference; `--update-golden` rewrites the file.
    """

    def __init__(self, path: Path, *, update: bool) -> None:
        self.path = path
        self.update = update

    def __call__(self, text: str) -> None:
        __tracebackhide__ = True
        if self.update:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(text + "\n", encoding="utf-8", newline="\n")
        elif not self.path.is_file():
            pytest.fail(f"there is no {self._name()}; write it with --update-golden, read it, and commit it")
        elif (expected := self.path.read_text(encoding="utf-8").removesuffix("\n")) != text:
            pytest.fail(f"{self._difference(expected, text)}\nif this is meant: --update-golden")

    def __eq__(self, text: object) -> bool:
        __tracebackhide__ = True
        if not isinstance(text, str):
            return NotImplemented
        self(text)
        return True

    __hash__ = None  # type: ignore[assignment]

    def _name(self) -> str:
        return self.path.relative_to(GOLDEN.parent.parent).as_posix()

    def _difference(self, expected: str, text: str) -> str:
        lines = difflib.unified_diff(expected.split("\n"), text.split("\n"), self._name(), "this run", lineterm="")
        return "\n".join(lines)


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Expected text of this test; of this case, where the test has parameters."""
    name = quote(request.node.name, safe="[]=, ")  # no two tests share a file, and no name leaves the folder
    return Golden(GOLDEN / request.path.stem / f"{name}.txt", update=request.config.getoption("--update-golden"))
