"""``ffc run`` and ``ffc verify``: run a compiled function; compare it with its reference."""

from __future__ import annotations

import io
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..compiled import Compiled
from ..driver import load
from ..errors import UsageError
from ..runtime.record import RunRecord
from ..stored.files import replace_file
from ..trees import flatten
from ..verification import Verification
from .inputs import Call, parse_inputs, stored_call, wanted_inputs
from .targets import check_output, open_target
from .terminal import Terminal, to_json


def run(options: Namespace, terminal: Terminal) -> int:
    given = parse_inputs(options.input)
    if ":" in options.file and not Path(options.file).exists():
        made = f"`ffc compile {options.file}` makes one, and `ffc verify {options.file}` compiles and runs it"
        raise UsageError(f"{options.file} is no file; of a function, {made}")
    compiled = load(options.file, options.device, options.sha256)
    outputs = _output_files(compiled, options.output)
    for path in [*outputs, *filter(None, [options.output_record])]:
        check_output(path, options.force)
    call = stored_call(compiled.plan, given, compiled.device)
    result, record = _observed(compiled, call, terminal)
    tensors = [(path, leaf) for path, leaf in flatten(result)[0] if isinstance(leaf, Tensor)]
    for path, (_, tensor) in zip(outputs, tensors, strict=False):
        replace_file(path, _npy(tensor), options.force)
    if options.output_record:
        replace_file(options.output_record, (to_json(record.to_json()) + "\n").encode(), options.force)
    results = [{"path": path or "result", **_described(leaf)} for path, leaf in tensors]
    data = {"results": results, "outputs": [str(p) for p in outputs], "record": record.to_json()}
    terminal.show(_run_text(results, outputs, record), data)
    return 0


def _observed(compiled: Compiled, call: Call, terminal: Terminal) -> tuple[Any, RunRecord]:
    """Progress is told as the front; of several loops as that of the loop that is being solved."""
    most = max((part.system.blocks for part in compiled.plan.parts if part.system), default=0)
    with terminal.progress() as say:
        return compiled.observed_run(lambda sweep: say("front", sweep.front, most), call.args, dict(call.kwargs))


def _output_files(compiled: Compiled, output: str | None) -> list[Path]:
    """The file of each result: the one that was named, or with the result's index before its suffix."""
    if output is None:
        return []
    program = compiled.plan.parts[-1].program
    assert program is not None
    count = sum(1 for leaf in program.result.leaves if leaf.name is not None)
    path = Path(output)
    return [path] if count == 1 else [path.with_name(f"{path.stem}-{i}{path.suffix}") for i in range(count)]


def _npy(tensor: Tensor) -> bytes:
    try:
        array = tensor.detach().cpu().numpy()
    except TypeError:
        raise UsageError(f"a result is {tensor.dtype}, which .npy cannot hold; let the function convert it") from None
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _described(tensor: Tensor) -> dict[str, Any]:
    return {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}


def _run_text(results: Sequence[dict[str, Any]], outputs: Sequence[Path], record: RunRecord) -> str:
    lines = [
        f"{item['path']}: {item['dtype']}{item['shape']}" + (f" -> {outputs[i]}" if i < len(outputs) else "")
        for i, item in enumerate(results)
    ]
    return "\n".join([*lines, *map(_work, record.parts), record.claim])


def _work(record: RunRecord) -> str:
    """Of one part."""
    work = f"{len(record.sweeps)} sweeps for {record.blocks} steps" if record.sweeps else record.ending.value
    return f"{record.schedule}: {work}, {record.seconds:.4g} s"


# ---------------------------------------------------------------------------------------------------- verify


def verify(options: Namespace, terminal: Terminal) -> int:
    with terminal.progress() as say:
        compiled, call = open_target(options, say)
    if call is None:
        assert compiled.plan.program is not None
        wanted = wanted_inputs(compiled.plan.program.signature)
        raise UsageError(f"{options.target} is an artifact: its inputs have to be given\n{wanted}")
    if options.seeds is not None:
        return _verify_seeds(compiled, call, options, terminal)
    verification = compiled.verify(*call.args, **call.kwargs)
    terminal.show(_verify_text(verification), _verify_data(options.target, verification))
    return 0 if verification.equal else 1


def _verify_seeds(compiled: Compiled, call: Call, options: Namespace, terminal: Terminal) -> int:
    """The same arguments from one seed after another."""
    differing: dict[int, Verification] = {}
    by_sweeps = blocks = 0
    with terminal.progress() as say:
        for seed in range(options.seeds):
            torch.manual_seed(seed)
            verification = compiled.verify(*call.args, **call.kwargs)
            by_sweeps += sum(part.certified for part in verification.record.parts)
            blocks += sum(part.blocks for part in verification.record.parts)
            if not verification.equal:
                differing[seed] = verification
            say("seeds", seed + 1, options.seeds)
    lines = [f"{options.seeds} seeds, {len(differing)} differences in results or in what is left of the generator"]
    schedules = ", ".join(str(part.schedule) for part in compiled.plan.parts)
    lines += [f"{by_sweeps} of {blocks} steps by sweeps ({schedules})"]
    lines += [f"seed {seed}: {verification}" for seed, verification in list(differing.items())[:1]]
    data = {"target": options.target, "equal": not differing, "seeds": options.seeds, "differing": list(differing)}
    terminal.show("\n".join(lines), {**data, "by_sweeps": by_sweeps, "steps": blocks})
    return 1 if differing else 0


def _verify_text(verification: Verification) -> str:
    spent = sum(part.seconds for part in verification.record.parts)
    seconds = f"{spent:.4g} s against the reference's {verification.reference_seconds:.4g} s"
    return f"{verification}\n{seconds}"


def _verify_data(target: str, verification: Verification) -> dict[str, Any]:
    return {
        "target": target,
        "equal": verification.equal,
        "outputs": verification.outputs,
        "differences": [asdict(difference) for difference in verification.differences],
        "reference_seconds": verification.reference_seconds,
        "record": verification.record.to_json(),
    }
