"""The base of our dispatch modes: one that does not wait for torch.compile."""

from __future__ import annotations

import sys
from typing import Any

from torch._compile import _disable_dynamo
from torch.utils._python_dispatch import TorchDispatchMode


class Dispatching(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """A dispatch mode whose calls are kept from torch.compile only where that has been loaded.

    Torch keeps it away from the methods of all modes, and to do so imports it when the first is called, which takes
    longer than recording some thousand steps. What is not loaded compiles nothing.
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # as far as torch itself is to see to it

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)  # type: ignore[no-untyped-call]
        if "__torch_dispatch__" not in cls.__dict__:
            return
        own = cls.__torch_dispatch__
        apart = _disable_dynamo(own)

        def dispatch(self: Any, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            call = apart if "torch._dynamo" in sys.modules else own
            return call(self, func, types, args, kwargs)

        cls.__torch_dispatch__ = dispatch  # type: ignore[method-assign]
