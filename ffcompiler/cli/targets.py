"""From the words of a command line to a function or artifact; and whether an output could be written."""

from __future__ import annotations

import difflib
import importlib
import inspect
import os
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..calls import bind
from ..capture import look
from ..capture.facts import is_users, line_of
from ..compiled import Compiled
from ..driver import compile as compile_function
from ..driver import load
from ..errors import FFCompilerError, UsageError
from ..plan import Tolerance, tolerance
from ..schedules import parse_schedule
from ..trees import flatten, unflatten
from .inputs import Call, parse_inputs, stored_call
from .terminal import Progress

NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"


def open_target(options: Namespace, progress: Progress) -> tuple[Compiled, Call | None]:
    """The artifact, or the function compiled as the options say; and its inputs, if they are known."""
    target, given = options.target, parse_inputs(options.input)
    if is_artifact(target):
        if options.schedule != "auto" or options.equality != "bits" or options.on_unsupported is not None:
            words = "--schedule, --equality and --on-unsupported"
            raise UsageError(f"{target} is compiled already: {words} are for a function")
        compiled = load(target, options.device)
        return compiled, stored_call(compiled.plan, given, compiled.device) if given else None
    function = find_function(target)
    call = example_call(function, target, given, options.device)
    return compile_target(function, call, options, progress), call


def is_artifact(target: str) -> bool:
    """Whether the word names a file, and not a function."""
    if target.endswith(".ffc") or os.path.exists(target):
        return True
    if ":" not in target:
        raise UsageError(f"{target!r} is neither a file nor a function (package.module:attribute){_spelt(target)}")
    return False


def compile_target(function: Callable[..., Any], call: Call, options: Namespace, progress: Progress) -> Compiled:
    try:
        parse_schedule(options.schedule)
    except FFCompilerError as error:
        raise UsageError(str(error)) from None
    try:
        return compile_function(
            function,
            call.args,
            call.kwargs,
            equality=parse_equality(options.equality),
            schedule=options.schedule,
            on_unsupported=options.on_unsupported,
            budget=options.budget,
            memory_limit=None if options.memory_limit is None else options.memory_limit * 2**20,
            cache=options.cache,
            progress=progress,
        )
    except FFCompilerError:
        raise
    except Exception as error:
        if not is_users(error):  # a fault of ours
            raise
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise FFCompilerError(
            f"the function, run on its example inputs, raises {what}\n  at {line_of(error)}"
        ) from error


def parse_equality(text: str) -> Tolerance | str:
    """``bits``, ``tolerance`` or ``tolerance:1e-5,1e-6``."""
    if text == "bits":
        return text
    if text == "tolerance":
        return tolerance()
    match = re.fullmatch(rf"tolerance:({NUMBER}),({NUMBER})", text)
    if match is None or min(float(match[1]), float(match[2])) < 0:
        raise UsageError(f"--equality is bits, tolerance or tolerance:RTOL,ATOL, not {text!r}")
    return tolerance(float(match[1]), float(match[2]))


# ---------------------------------------------------------------------------------------------------- functions


def find_function(name: str) -> Callable[..., Any]:
    """The function named ``package.module:attribute``."""
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise UsageError(f"{name!r} does not name a function: write package.module:attribute{_spelt(name)}")
    value = _import(module_name)
    for part in path.split("."):
        if not hasattr(value, part):
            near = difflib.get_close_matches(part, dir(value), 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise UsageError(f"{module_name} has no attribute {path!r}{hint}")
        value = getattr(value, part)
    if not callable(value):
        raise UsageError(f"{name} is no function, but an object of type {type(value).__name__}")
    if isinstance(value, type):
        raise UsageError(f"{name} is a class; name an object of it that can be called, or a function")
    function: Callable[..., Any] = value
    return function


def _spelt(name: str) -> str:
    """How a name of another form may be meant: that of a file, or with a dot in place of the colon."""
    words = [word for word in re.split(r"[/\\.:]+", name.replace(".py", "")) if word.isidentifier()]
    if not words or name.startswith(":"):
        return ""
    module, attribute = (words, "FUNCTION") if ".py" in name or len(words) == 1 else (words[:-1], words[-1])
    return f", as in {'.'.join(module)}:{attribute}"


def _import(name: str) -> Any:
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            meant = f"; of a file write the module{_spelt(name)}" if name.endswith(".py") or "/" in name else ""
            raise UsageError(f"there is no module {name!r} (looked in {os.getcwd()} too){meant}") from None
        raise FFCompilerError(f"importing {name} failed: {error}") from error
    except ImportError as error:
        raise FFCompilerError(f"importing {name} failed: {error}") from error


def example_call(function: Callable[..., Any], name: str, given: Mapping[str, Any], device: str | None) -> Call:
    """The arguments for a function: ``given`` by parameter name, the others from ``function.example_inputs()``."""
    signature = inspect.signature(function.forward if isinstance(function, nn.Module) else function)
    unknown = [n for n in given if n not in signature.parameters]
    if unknown:
        raise UsageError(f"{name} has no parameter {unknown[0]!r}; it has {', '.join(signature.parameters) or 'none'}")
    arguments = {**_examples(function, name, signature), **given}
    missing = [n for n, p in signature.parameters.items() if n not in arguments and _is_required(p)]
    if missing:
        raise UsageError(
            f"{name} needs an input for {', '.join(missing)}: give --input {missing[0]}=@FILE.npy, "
            "or let the function have an attribute example_inputs that returns its arguments"
        )
    bound = signature.bind_partial()
    bound.arguments.update({n: arguments[n] for n in signature.parameters if n in arguments})
    if device is not None:
        _move_modules(bind(function, bound.args, bound.kwargs), to_device(device))
    return Call(*(_moved(part, device) for part in (bound.args, bound.kwargs)))


def _examples(function: Callable[..., Any], name: str, signature: inspect.Signature) -> Mapping[str, Any]:
    make = getattr(function, "example_inputs", None)
    if make is None:
        return {}
    inputs = make()
    try:
        if isinstance(inputs, Mapping):
            return signature.bind(**inputs).arguments
        return signature.bind(*(inputs if isinstance(inputs, tuple | list) else (inputs,))).arguments
    except TypeError as error:
        raise FFCompilerError(f"{name}.example_inputs() does not fit the function: {error}") from None


def _is_required(parameter: inspect.Parameter) -> bool:
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return parameter.default is inspect.Parameter.empty and parameter.kind not in variable


def _moved(value: Any, device: str | None) -> Any:
    leaves, tree = flatten(value)
    return unflatten(tree, [v.to(device) if device and isinstance(v, Tensor) else v for _, v in leaves])


def _move_modules(function: Callable[..., Any], device: torch.device) -> None:
    """Move the modules that the function reaches, as its author would before sampling there."""
    for module in look(function).modules():
        module.to(device)


def to_device(name: str) -> torch.device:
    """The device of that name. Raises: `UsageError` if it is not there."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"device {name!r} is not available here: {str(error).splitlines()[0]}") from None
    return device


def check_output(path: str | os.PathLike[str], force: bool) -> None:
    """Refuse, before any work is done, an output that could not be written at its end."""
    target = Path(path)
    folder = target.parent
    if os.fspath(path).endswith(("/", os.sep)):
        raise UsageError(f"cannot write {path}: that is a folder; name a file in it")
    try:
        exists = target.exists()
        if not folder.is_dir():
            raise UsageError(f"cannot write {target}: there is no folder {folder}")
    except OSError as error:
        raise UsageError(f"cannot write {target}: {error.strerror}") from None
    if exists and not target.is_file():
        raise UsageError(f"{target} is not an ordinary file; choose another name")
    if exists and not force:
        raise UsageError(f"{target} exists; choose another name, or replace it with --force")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"cannot write {target}: the folder is read-only")
