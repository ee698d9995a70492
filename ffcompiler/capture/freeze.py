"""An fx graph to a `Graph` value: run once, node by node, on real tensors to learn every type."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ..errors import CaptureError
from ..graph import Arg, Graph, Node, Ref, Step, Symbol, SymbolKind, Value
from ..ops import OPS
from .facts import tensor_type

aten = torch.ops.aten


@dataclass(slots=True)
class Freezer:
    """Turns fx nodes into `Node` values named ``<prefix>0, <prefix>1, ...``.

    ``names`` gives each placeholder its program-wide name, ``tensors`` the value to run with; a placeholder that is in
    neither is a per-step number, given by ``steps`` (placeholder name -> table index) and ``numbers`` (its value now).
    """

    prefix: str
    device: torch.device
    names: Mapping[str, str]
    tensors: Mapping[str, Tensor]
    numbers: Sequence[int | float] = ()

    def freeze(self, graph: fx.Graph) -> tuple[Graph, tuple[Tensor, ...]]:
        """The graph value, and its outputs on ``tensors``."""
        env: dict[fx.Node, Any] = {}
        refs: dict[fx.Node, Arg] = {}
        inputs: dict[str, Value] = {}
        nodes: list[Node] = []
        for node in graph.nodes:
            if node.op == "placeholder":
                env[node], refs[node] = self._placeholder(node, inputs)
            elif node.op == "call_function":
                self._call(node, env, refs, nodes)
            else:
                outputs = node.args[0]
        result, given = tuple(env[n] for n in outputs), tuple(_as_ref(refs[n]) for n in outputs)
        read = {ref.name for node in nodes for ref in node.refs()} | {ref.name for ref in given}
        listed = tuple(value for name, value in inputs.items() if name in read)  # not what only dead code has read
        return Graph(listed, tuple(nodes), given), result

    def _placeholder(self, node: fx.Node, inputs: dict[str, Value]) -> tuple[Any, Arg]:
        if node.name not in self.names:
            table = int(node.name.removeprefix("step"))
            return self.numbers[table], Step(table)
        name, tensor = self.names[node.name], self.tensors[node.name]
        inputs[name] = Value(name, tensor_type(tensor))
        return tensor, Ref(name)

    def _call(self, node: fx.Node, env: dict[fx.Node, Any], refs: dict[fx.Node, Arg], nodes: list[Node]) -> None:
        if node.target is operator.getitem:
            of, output = node.args
            assert isinstance(of, fx.Node) and isinstance(output, int)
            env[node], refs[node] = env[of][output], Ref(_as_ref(refs[of]).name, output)
            return
        op = str(node.target)
        source = node.meta.get("source", "")
        if op not in OPS:
            raise CaptureError(
                f"operator {op} at {source} is not among those that ffcompiler admits (docs/ops.md)\n"
                "  write it with others, or move it out of the function: before the call, onto its result, or into a "
                "weight"
            )
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda n: env[n])
        try:
            value = env[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        except RuntimeError as error:  # a view of what steps have left, which is a copy in another layout
            raise CaptureError(
                f"{op} at {source} cannot be called on what the captured program gives it: {error}\n"
                "  where it is a view of something in another layout, write x.reshape(...) in place of x.view(...)"
            ) from error
        if _does_nothing(node, env):
            of = node.args[0]
            assert isinstance(of, fx.Node)
            env[node], refs[node] = env[of], refs[of]
            return
        types = tuple(tensor_type(v) if isinstance(v, Tensor) else None for v in _results(value))
        name = f"{self.prefix}{len(nodes)}"
        arguments = tuple(self._arg(a, refs) for a in node.args)
        keywords = tuple((k, self._arg(v, refs)) for k, v in sorted(node.kwargs.items()))
        nodes.append(Node(name, op, arguments, keywords, types, source))
        refs[node] = Ref(name)

    def _arg(self, value: Any, refs: dict[fx.Node, Arg]) -> Arg:
        match value:
            case fx.Node():
                return refs[value]
            case list() | tuple():
                return tuple(self._arg(v, refs) for v in value)
            case torch.dtype():
                return Symbol(SymbolKind.DTYPE, str(value).removeprefix("torch."))
            case torch.layout():
                return Symbol(SymbolKind.LAYOUT, str(value).removeprefix("torch."))
            case torch.memory_format():
                return Symbol(SymbolKind.MEMORY_FORMAT, str(value).removeprefix("torch."))
            case torch.device():
                if value.type != self.device.type:
                    raise CaptureError(
                        f"the function uses device {value} while its inputs are on {self.device}\n"
                        "  give inputs, model and what the function makes the same device"
                    )
                return Symbol(SymbolKind.DEVICE, "run")
            case bool() | int() | float() | str() | None:
                return value
        raise CaptureError(
            f"a constant of type {type(value).__name__} cannot be kept in a plan\n"
            "  give operators tensors, numbers, dtypes and devices"
        )


def _results(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _does_nothing(node: fx.Node, env: dict[fx.Node, Any]) -> bool:
    """A cast or an expansion to the type that the value has already: added where a write is made functional."""
    if node.target is aten._to_copy.default and set(node.kwargs) == {"dtype"}:
        return bool(env[node.args[0]].dtype == node.kwargs["dtype"])  # type: ignore[index]
    if node.target is aten.expand.default:
        return bool(env[node.args[0]].shape == env[node].shape)  # type: ignore[index]
    return False


def _as_ref(arg: Arg) -> Ref:
    assert isinstance(arg, Ref)
    return arg
