"""The options of every command. No torch in here."""

from __future__ import annotations

import argparse
from importlib.metadata import PackageNotFoundError, version
from typing import TypeAlias

FUNCTION = "package.module:attribute, looked up from the current folder too"
INPUT = (
    "an argument by its parameter's name: NAME=@FILE.npy for a tensor, NAME=2.0 for a plain value; may be repeated; "
    "for a function the others come from attribute.example_inputs()"
)


def make_parser() -> argparse.ArgumentParser:
    """The parser; its result names the command's ``module`` and function ``command``."""
    parser = argparse.ArgumentParser(
        prog="ffc",
        description="Compile sequential PyTorch functions into parallel fixed-point iterations with the same answer.",
        epilog="exit codes: 0 done, 1 failed, 2 usage, 3 cannot be parallelised where that was insisted on",
    )
    parser.add_argument("--version", action="version", version=f"ffcompiler {_version()}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for add in (_demo, _compile, _explain, _inspect, _run, _verify, _bench, _doctor, _cache):
        add(commands)
    return parser


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add(commands: Commands, name: str, module: str, text: str, example: str = "") -> argparse.ArgumentParser:
    epilog = f"example: ffc {example}" if example else None
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", epilog=epilog)
    parser.set_defaults(module=module)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--quiet", action="store_true", help="no progress on stderr")
    return parser


def _demo(commands: Commands) -> None:
    text = "compile and run the shipped MADE sampler of 784 pixels, and compare it with its author's own loop"
    parser = _add(commands, "demo", "demo", text)
    parser.add_argument("--output", metavar="DIR", default="ffc-demo", help="where its files go (default: ffc-demo)")
    parser.add_argument("--batch", type=_positive, default=100, help="digits to sample (default: 100)")
    parser.add_argument("--device", default="auto", help="auto (a GPU if there is one), cpu, cuda")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument("--force", action="store_true", help="write into a folder that holds other files")


def _compile(commands: Commands) -> None:
    example = "compile models.made:sample --input noise=@noise.npy -o made.ffc"
    parser = _add(commands, "compile", "compile", "compile a function and save it as an artifact", example)
    parser.add_argument("function", metavar="FUNCTION", help=FUNCTION)
    parser.add_argument("-o", "--output", metavar="FILE.ffc", help="default: ATTRIBUTE.ffc")
    _compile_options(parser)
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    parser.add_argument("--require-parallel", action="store_true", help="exit with 3 if it would all run sequentially")


def _compile_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--input", metavar="NAME=VALUE", action="append", default=[], help=INPUT)
    schedules = "auto, jacobi, sliding(N), gs-jacobi(N), growing(N), sequential, ..."
    parser.add_argument("--schedule", default="auto", help=schedules)
    parser.add_argument(
        "--equality", default="bits", metavar="E", help="bits (default), tolerance, or tolerance:RTOL,ATOL"
    )
    parser.add_argument(
        "--on-unsupported",
        choices=("sequential", "raise"),
        help="where the function cannot be captured or parallelised safely: keep it as it is, or fail with 3 "
        "(default: fail if a parallel schedule is asked for by name)",
    )
    parser.add_argument(
        "--budget", type=float, default=5.0, metavar="S", help="seconds for measuring costs and candidates (default: 5)"
    )
    parser.add_argument(
        "--memory-limit", type=float, metavar="MIB", help="MiB that a run may need besides arguments and weights"
    )
    parser.add_argument("--device", help="where to compile for and run: cpu, cuda (default: where the inputs are)")
    parser.add_argument(
        "--no-cache",
        dest="cache",
        action="store_false",
        help="measure again, whatever the plan cache holds (see `ffc cache`), and keep nothing in it",
    )


def _target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="FUNCTION|FILE.ffc", help=f"an artifact, or {FUNCTION}")
    _compile_options(parser)


def _explain(commands: Commands) -> None:
    text = "say whether compiling is worth it, why, and what would change that"
    parser = _add(commands, "explain", "plans", text, "explain models.made:sample --input noise=@noise.npy")
    _target(parser)
    _processors(parser)


def _processors(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--processors",
        metavar="P,P,...",
        type=_several,
        default=(),
        help="also run the schedules and simulate them on so many workers, as in 1,8,98; an artifact needs --input",
    )


def _inspect(commands: Commands) -> None:
    parser = _add(commands, "inspect", "plans", "print the plan, or write it as a page with pictures")
    _target(parser)
    _processors(parser)
    parser.add_argument(
        "-o", "--output", metavar="PAGE.html", help="write a page (or, to a name in .dot, a graph) in place of text"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing file")


def _run(commands: Commands) -> None:
    parser = _add(commands, "run", "runs", "run an artifact", "run made.ffc --input noise=@noise.npy --output x.npy")
    parser.add_argument("file", metavar="FILE.ffc")
    parser.add_argument("--input", metavar="NAME=VALUE", action="append", default=[], help=INPUT.partition("; for")[0])
    parser.add_argument("--output", metavar="FILE.npy", help="the result; several become FILE-0.npy, FILE-1.npy, ...")
    parser.add_argument("--output-record", metavar="FILE.json", help="the run record: sweeps, fronts, certificate")
    parser.add_argument("--device", help="cpu, cuda (default: the one it was compiled for)")
    parser.add_argument("--sha256", metavar="HEX", help="refuse a file with another SHA-256")
    parser.add_argument("--force", action="store_true", help="replace existing files")


def _verify(commands: Commands) -> None:
    parser = _add(commands, "verify", "runs", "run a compiled function and its reference, and compare the bits")
    _target(parser)
    parser.add_argument(
        "--seeds",
        type=_positive,
        metavar="N",
        help="of a function that draws: once from each of N seeds, comparing what is left of the generator too",
    )


BENCHMARKS = ("made", "made-3072", "pixelcnn")  # `ffc --help` must not wait for torch; a test compares the two
RECURRENCES = ("tanh-rnn", "gru", "lstm", "gru-layers", "gru-wide", "gru-stack")
FUZZ, DECIDE = "fuzz", "decide"


def _bench(commands: Commands) -> None:
    parser = _add(commands, "bench", "bench", "measure against the best sequential rewrites, interleaved")
    parser.add_argument(
        "benchmark",
        choices=(*BENCHMARKS, *RECURRENCES, DECIDE, FUZZ),
        help="a sampler of the zoo; a recurrence over thousands of steps; decide: how good the choice of schedule "
        "is, on many systems; fuzz: compile and compare random programs",
    )
    parser.add_argument("--batch", type=_positive, default=100)
    parser.add_argument("--pairs", type=_positive, default=9, help="times each variant is run (default: 9)")
    parser.add_argument("--threads", type=_positive, help="torch threads (default: the usable cores)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--programs", type=_positive, default=200, help="of fuzz: how many (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="of fuzz: that of the first program (default: 0)")
    parser.add_argument(
        "--resume", metavar="FILE", help="of fuzz and decide: one line for each program or system; go on where it ends"
    )
    parser.add_argument(
        "--only", metavar="SYSTEM", action="append", default=[], help="of decide: this system; may be repeated"
    )
    parser.add_argument("--list", action="store_true", help="of decide: show the systems, measure nothing")
    parser.add_argument("--output", metavar="RAW.json", help="every single time, with machine, versions and settings")
    parser.add_argument("--force", action="store_true", help="replace an existing file")
    parser.add_argument("--strict", action="store_true", help="fail where the machine is found busy with other work")


def _doctor(commands: Commands) -> None:
    _add(commands, "doctor", "doctor", "show versions, devices, threads and settings that decide bits, with advice")


def _cache(commands: Commands) -> None:
    text = "show or clear the plan cache: choices of schedules that compiling takes over in place of measuring again"
    parser = commands.add_parser("cache", help=text, description=text[0].upper() + text[1:] + ".")
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    ls = _add(actions, "ls", "cache", "list the plans: when each was measured, its size, device, speed and schedule")
    clear = _add(actions, "clear", "cache", "remove plans, so that the next compilation measures again")
    clear.add_argument("keys", metavar="KEY", nargs="*", help="the beginning of a key, as `ls` shows it (default: all)")
    path = _add(actions, "path", "cache", "print the folder: $XDG_CACHE_HOME/ffcompiler, or ~/.cache/ffcompiler")
    for action in (ls, clear, path):
        action.add_argument("--folder", metavar="DIR", help="that of compile(cache=DIR) in place of the usual one")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def _several(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(_positive(word) for word in text.split(",")))


def _version() -> str:
    try:
        return version("ffcompiler")
    except PackageNotFoundError:
        return "unknown (not installed)"
