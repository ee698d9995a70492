"""Functions that differentiate: under ``no_grad``, as all of ours are evaluated, such a one raises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ..errors import CaptureError, FFCompilerError
from ..loops import drive_loops
from .facts import line_of
from .restore import Kept, Watch


class NeedsGradientsError(CaptureError):
    """The function can be called with gradients only."""


def check_without(error: Exception, function: Callable[..., Any], call: Any, kept: Kept) -> None:
    """Raises: `NeedsGradientsError` if what raised ``error`` without gradients does not with them."""
    if isinstance(error, FFCompilerError):
        return
    args, kwargs = call
    try:
        with torch.enable_grad(), drive_loops(None), Watch(kept):
            function(*args, **kwargs)
    except Exception:  # the function's own, whatever it is called in
        return
    raise NeedsGradientsError(
        f"the function needs gradients, and is evaluated without: {line_of(error)} raises "
        f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}\n"
        "  compute what is differentiated inside `with torch.enable_grad():`, from a tensor on that requires gradients "
        "there (x = x.detach().requires_grad_()), and detach what comes of it"
    ) from error
