"""ffcompiler: sequential PyTorch functions as parallel nonlinear equation solving, with the same bits.

    import ffcompiler as ffc

    compiled = ffc.compile(sample, (noise,))
    x = compiled(noise)

Names load on first use, so that `ffc --help` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .compiled import Compiled
    from .driver import compile, load  # noqa: A004 - the verb users expect
    from .errors import (
        ArtifactError,
        BranchError,
        CaptureError,
        CausalityError,
        FFCompilerError,
        InvalidPlanError,
        ScheduleError,
        SignatureError,
        UsageError,
    )
    from .loops import fori_loop, scan
    from .plan import Bits, Plan, Tolerance, tolerance
    from .runtime.record import Certificate, RunRecord
    from .tell.explain import Explanation
    from .verification import Verification

__all__ = [
    "ArtifactError",
    "Bits",
    "BranchError",
    "CaptureError",
    "CausalityError",
    "Certificate",
    "Compiled",
    "Explanation",
    "FFCompilerError",
    "InvalidPlanError",
    "Plan",
    "RunRecord",
    "ScheduleError",
    "SignatureError",
    "Tolerance",
    "UsageError",
    "Verification",
    "compile",
    "fori_loop",
    "load",
    "scan",
    "tolerance",
]

_HOMES = {
    "compiled": ("Compiled",),
    "driver": ("compile", "load"),
    "tell.explain": ("Explanation",),
    "loops": ("fori_loop", "scan"),
    "plan": ("Bits", "Plan", "Tolerance", "tolerance"),
    "runtime.record": ("Certificate", "RunRecord"),
    "verification": ("Verification",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME.get(name, 'errors')}", __name__), name)
    globals()[name] = value  # the next use finds it directly
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
