"""ffcompiler: sequential PyTorch functions as parallel nonlinear equation solving, with the same bits.

    import ffcompiler as ffc

    compiled = ffc.compile(sample, (noise,))
    x = compiled(noise)
"""

from __future__ import annotations

from .compiled import Compiled, Verification
from .driver import compile, load  # noqa: A004 - the verb users expect
from .errors import (
    ArtifactError,
    CaptureError,
    CausalityError,
    FFCompilerError,
    InvalidPlanError,
    ScheduleError,
    SignatureError,
    UsageError,
)
from .explain import Explanation
from .loops import fori_loop
from .plan import Bits, Plan, Tolerance, tolerance
from .runtime.record import Certificate, RunRecord

__all__ = [
    "ArtifactError",
    "Bits",
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
    "tolerance",
]
