"""What this machine and process are: versions, devices, threads, and the settings that decide bits, with advice."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True, slots=True)
class Finding:
    """One fact; ``advice`` where it matters."""

    group: str
    name: str
    value: str
    advice: str | None = None


def findings() -> list[Finding]:
    """Everything `ffc doctor` shows."""
    return [*_versions(), *_machine(), _load(), _cpu(), *_cuda(), *_threads(), *_settings(), *_cuda_settings()]


def surroundings(device: str) -> list[Finding]:
    """What stays as long as nobody changes it, and costs on this kind of device depend on; CUDA is left asleep."""
    of_cuda = [*_cuda(), *_cuda_settings()] if device == "cuda" else []
    return [*_versions(), *_machine(), _cpu(), *_threads(), *_settings(), *of_cuda]


def load() -> str:
    """How busy the machine is."""
    return _load().value


def as_text(found: list[Finding]) -> str:
    """``found`` in columns by group, each advice below its fact."""
    width = max(len(f.name) for f in found)
    lines: list[str] = []
    for k, f in enumerate(found):
        if k == 0 or found[k - 1].group != f.group:
            lines += [*([""] if lines else []), f.group]
        lines.append(f"  {f.name:<{width}}  {f.value}")
        lines += [f"  {'':<{width}}  -> {f.advice}"] if f.advice else []
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """What a measurement has to be read with: machine, versions and settings, as plain data."""
    groups: dict[str, Any] = {}
    for f in findings():
        groups.setdefault(f.group, {})[f.name] = f.value
    return groups


def as_data(found: list[Finding]) -> list[dict[str, Any]]:
    return [asdict(f) for f in found]


def usable_cores() -> int:
    """How many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# ---------------------------------------------------------------------------------------------------- groups


def _versions() -> list[Finding]:
    names = ("ffcompiler", "torch", "numpy", "safetensors", "networkx", "rich", "jinja2")
    return [Finding("versions", "python", platform.python_version())] + [
        Finding("versions", name, _version(name)) for name in names
    ]


def _version(name: str) -> str:
    try:
        return str(torch.__version__) if name == "torch" else version(name)  # a subclass of str
    except PackageNotFoundError:
        return "not installed"


def _machine() -> list[Finding]:
    capability = torch.backends.cpu.get_cpu_capability()
    slow = (
        None if "AVX" in capability or platform.machine() != "x86_64" else "no vector units in use: expect slow sweeps"
    )
    return [
        Finding("machine", "system", platform.platform(terse=True)),
        Finding("machine", "processor", _processor()),
        Finding("machine", "capability", capability, slow),
        Finding("machine", "memory", _memory()),
    ]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    except (AttributeError, OSError, ValueError):
        return "unknown"


def _load() -> Finding:
    cores = usable_cores()
    try:
        load = os.getloadavg()[0]
    except (AttributeError, OSError):
        return Finding("machine", "load", "unknown")
    busy = load > 0.5 * cores
    advice = "the machine is busy: times measured now, the choice of schedule among them, are not worth much"
    return Finding("machine", "load", f"{load:.2f} on {cores} cores", advice if busy else None)


def _cpu() -> Finding:
    return Finding("devices", "cpu", f"{usable_cores()} cores usable of {os.cpu_count()}")


def _cuda() -> list[Finding]:
    if not torch.cuda.is_available():
        built = torch.version.cuda or torch.version.hip
        why = f"none usable, although this torch is built for {built}" if built else "this torch is built without"
        return [Finding("devices", "cuda", why, "install the driver" if built else None)]
    found = []
    for k in range(torch.cuda.device_count()):
        p = torch.cuda.get_device_properties(k)
        found.append(
            Finding("devices", f"cuda:{k}", f"{p.name}, {p.total_memory / 2**30:.0f} GiB, {p.major}.{p.minor}")
        )
    return found


def _threads() -> list[Finding]:
    threads, cores = torch.get_num_threads(), usable_cores()
    many = f"more threads than cores: set OMP_NUM_THREADS={cores}" if threads > cores else None
    found = [Finding("threads", "torch", f"{threads}, between operators {torch.get_num_interop_threads()}", many)]
    return found + [Finding("threads", name, _environment(name)) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")]


# ---------------------------------------------------------------------------------------------------- settings


def _settings() -> list[Finding]:
    """What decides bits: the reference and the sweeps run under the same ones, so `bits` holds under each of them."""
    return _deciding(
        (
            ("MKL", _yes(_has(torch.backends.mkl)), None),
            ("MKL_CBWR", _environment("MKL_CBWR"), _mkl_advice()),
            ("oneDNN", _yes(_has(torch.backends.mkldnn)), None),
            ("float32 matmul", torch.get_float32_matmul_precision(), _matmul_advice()),
            ("deterministic", _yes(torch.are_deterministic_algorithms_enabled()), None),
            (
                "flush denormals",
                _yes(_flushes()),
                "results differ from those of a process that keeps them" if _flushes() else None,
            ),
            ("autocast", _autocast(), None),
            ("default dtype", str(torch.get_default_dtype()).removeprefix("torch."), None),
        )
    )


def _cuda_settings() -> list[Finding]:
    return _deciding(
        (
            ("TF32 in matmul", _yes(_tf32_matmul()), _tf32_advice(_tf32_matmul())),
            ("TF32 in cudnn", _yes(_tf32_cudnn()), _tf32_advice(_tf32_cudnn())),
            ("cudnn.benchmark", _yes(torch.backends.cudnn.benchmark), _benchmark_advice()),
        )
    )


def _deciding(settings: Iterable[tuple[str, str, str | None]]) -> list[Finding]:
    return [Finding("settings that decide bits", name, value, advice) for name, value, advice in settings]


def _has(backend: Any) -> bool:
    return bool(backend.is_available())


def _environment(name: str) -> str:
    return os.environ.get(name, "not set")


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"


def _mkl_advice() -> str | None:
    if not _has(torch.backends.mkl) or "MKL_CBWR" in os.environ:
        return None
    kind = "AVX512" if "512" in torch.backends.cpu.get_cpu_capability() else "AVX2"
    return f"a window may round unlike the whole array; MKL_CBWR={kind},STRICT lets more windows agree"


def _matmul_advice() -> str | None:
    if torch.get_float32_matmul_precision() == "highest":
        return None
    return "lower than float32: the bits of another machine may differ; torch.set_float32_matmul_precision('highest')"


def _tf32_matmul() -> bool:
    return torch.cuda.is_available() and bool(torch.backends.cuda.matmul.allow_tf32)


def _tf32_cudnn() -> bool:
    return torch.cuda.is_available() and bool(torch.backends.cudnn.allow_tf32)


def _tf32_advice(on: bool) -> str | None:
    return "values beyond 3.4e38 after rounding end a parallel run; the bits are still the reference's" if on else None


def _benchmark_advice() -> str | None:
    return "the kernel may change from call to call, and with it the bits" if torch.backends.cudnn.benchmark else None


def _flushes() -> bool:
    """Whether this thread turns the smallest numbers into zero."""
    return bool((torch.tensor([1e-40]) * 1.0 == 0.0).item())


def _autocast() -> str:
    on = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    return f"on for {', '.join(on)}" if on else "off"
