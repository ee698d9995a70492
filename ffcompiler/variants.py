"""Variants: a function compiled again for each signature that it is called with, on first use and within a limit."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeAlias, TypeVar

from torch import Tensor, nn

from .calls import Arguments, Key, Parameters, Unkeyed, key_of
from .constants import Same
from .errors import SignatureError
from .modes import ambient, training_flags

PATIENCE = 2
"""Times the limit: after so many variants have been compiled on first use, further ones are not."""

V = TypeVar("V")
FullKey: TypeAlias = tuple[Key, tuple[str, ...], Hashable, tuple[bool, ...]]
"""Arguments, the order of further keywords, settings, and which modules are in training."""


@dataclass(frozen=True, slots=True)
class Found(Generic[V]):
    """The variant for a call and the call's tensors; or why there is none."""

    variant: V | None
    tensors: list[Tensor]
    why: str = ""


@dataclass(slots=True)
class Variants(Generic[V]):
    """``make`` compiles for arguments; the training flags of the modules that calls reach tell signatures apart.

    The variant of the example call stays; of the others at most ``limit - 1`` are kept, the last used ones. While one
    is being compiled, in whatever thread, calls with other new signatures find none, so nothing waits and nothing locks
    up.
    """

    parameters: Parameters
    make: Callable[[tuple[Any, ...], dict[str, Any]], V]
    look_for_modules: Callable[[tuple[Any, ...]], Sequence[nn.Module]]  # in reach of a call with these objects
    admit: Callable[[tuple[Any, ...], dict[str, Any], list[Tensor]], None]  # raises for tensors that no variant takes
    insist: bool  # errors of a compilation are raised, and not turned into reasons
    limit: int
    example: V
    _first: FullKey | None = None
    _modules: dict[tuple[Same, ...], Sequence[nn.Module]] = field(default_factory=dict)  # by the objects of calls
    _kept: OrderedDict[FullKey, V | str] = field(default_factory=OrderedDict)
    _compiled: int = 0  # on first use
    _lock: threading.Lock = field(default_factory=threading.Lock)  # of what is kept
    _compiling: threading.Lock = field(default_factory=threading.Lock)
    _compiler: int = 0  # the thread that holds it

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take the modules as they are now, and this call as that of the example."""
        self.refresh()
        try:
            self._first = self._key(args, kwargs)[0]
        except Unkeyed:
            self._first = None

    def refresh(self) -> None:
        """Look for modules again: one may have been replaced, or loaded on first use."""
        self._modules = {}

    def all(self) -> tuple[V, ...]:
        """The example's, then the others that are kept, the last used one last."""
        with self._lock:
            return (self.example, *(v for v in self._kept.values() if not isinstance(v, str)))

    def find(self, args: tuple[Any, ...], kwargs: dict[str, Any], asked: bool = False) -> Found[V]:
        """The variant for a call, compiled now if it is new; ``asked``: the user asked for it, so no patience is lost.

        Raises: where ``insist`` or ``asked``, what goes wrong in a compilation; elsewhere that is the reason why there
        is no variant.
        """
        call = self.parameters.canonical(args, kwargs)
        try:
            key, tensors = self._key(*call)
        except Unkeyed as odd:
            if self.insist or asked:
                raise SignatureError(str(odd)) from None
            return Found(None, [], str(odd))
        self.admit(args, kwargs, tensors)
        if key == self._first:
            return Found(self.example, tensors)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
        if kept is None or (asked and isinstance(kept, str)):  # a failure may have been of its time
            kept = self._new(key, call, asked)
        return Found(None, tensors, kept) if isinstance(kept, str) else Found(kept, tensors)

    def _key(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[FullKey, list[Tensor]]:
        keyed = key_of(args, kwargs)
        modules = self._modules.get(keyed.objects)
        if modules is None:
            modules = self._looked_for(keyed.objects)
        full = keyed.key, self.parameters.order(kwargs), ambient(), training_flags(modules)
        return full, keyed.tensors

    def _looked_for(self, objects: tuple[Same, ...]) -> Sequence[nn.Module]:
        if len(self._modules) > self.limit:  # what calls give may be other objects each time
            self._modules = {}
        found = self.look_for_modules(tuple(one.thing for one in objects))
        self._modules[objects] = found
        return found

    def _new(self, key: FullKey, call: Arguments, asked: bool) -> V | str:
        """Compile a variant, unless there have been too many; or why there is none."""
        if self.limit <= 1 and not asked:
            return "only the signature of the example is compiled (max_signatures=1)"
        if self._compiled >= PATIENCE * self.limit and not asked:
            return (
                f"{self._compiled} other signatures have been compiled already, and this is a new one: no more are\n"
                "  an argument that changes in every call should be a tensor, and objects the same ones in all calls; "
                "or give a larger max_signatures"
            )
        wait = asked and self._compiler != threading.get_ident()
        if not self._compiling.acquire(blocking=wait):
            return "another signature is being compiled just now"
        try:
            self._compiler = threading.get_ident()
            with self._lock:
                known = self._kept.get(key)  # by another thread, since this one looked
            return self._make(key, call, asked) if known is None or isinstance(known, str) else known
        finally:
            self._compiler = 0
            self._compiling.release()

    def _make(self, key: FullKey, call: Arguments, asked: bool) -> V | str:
        self._compiled += not asked
        made: V | str
        try:
            made = self.make(*call)
        except Exception as error:  # the function's own, which it will raise again, or a fault of ours: not fatal here
            if self.insist or asked:
                raise
            made = f"compiling for these arguments failed: {type(error).__name__}: {error}"
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > max(self.limit - 1, 1):
                self._kept.popitem(last=False)
        self.refresh()
        return made
