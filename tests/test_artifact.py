"""Saved here, run elsewhere without the model's code: the same bits, and nothing but an artifact is accepted."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from plans import TWO_PARTS
from systems import SYSTEMS, Made, affine, bold, randn, sliced
from test_catalogue import assert_same, tensors
from torch import Tensor

import ffcompiler as ffc
from ffcompiler.artifact import FORMAT, MANIFEST, PLAN, Manifest, from_bytes, to_bytes
from ffcompiler.plan import Method, Plan, Schedule
from ffcompiler.stored.container import read, write
from ffcompiler.stored.weights import WEIGHTS
from ffcompiler.written.codec import decode, encode

pytestmark = pytest.mark.usefixtures("one_thread")


def saved(path: Path, name: str = "made_sliced_then_softplus", schedule: str = "jacobi") -> ffc.Compiled:
    function, args = SYSTEMS[name].make()
    compiled = ffc.compile(function, args, schedule=schedule)
    compiled.save(path)
    return compiled


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("artifact") / "tiny.ffc"
    function = affine(Made(2, hidden=2), 2)
    ffc.compile(function, (randn(1, 2),), schedule="jacobi").save(path)
    return path.read_bytes()


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_comes_back_with_its_bits(name: str, tmp_path: Path) -> None:
    function, args = SYSTEMS[name].make()
    compiled = ffc.compile(function, args)
    compiled.save(tmp_path / "a.ffc")
    again = ffc.load(tmp_path / "a.ffc")
    assert_same(again(*args), function(*args))
    assert_same(again.reference(*args), function(*args))
    if SYSTEMS[name].parallel:
        parallel = bold(ffc.compile(function, args, schedule="jacobi"))
        parallel.save(tmp_path / "b.ffc")
        assert_same(bold(ffc.load(tmp_path / "b.ffc"))(*args), function(*args))


def test_another_process_without_the_model_s_code_gives_the_same_bits(tmp_path: Path) -> None:
    """The loading process cannot import the module that made the artifact."""
    module = tmp_path / "src" / "private_model.py"
    module.parent.mkdir()
    module.write_text(
        textwrap.dedent("""
            import torch, ffcompiler as ffc
            from torch.nn import functional as F
            torch.set_num_threads(1)
            w = torch.randn(9, 9, generator=torch.Generator().manual_seed(0)).triu(1)
            def sample(u):
                def step(i, x):
                    y = torch.tanh(x @ w) * 1.5
                    x = x.clone()
                    x[:, i] = y[:, i] + F.softplus(u[:, i]) * u[:, i]
                    return x
                return ffc.fori_loop(0, 9, step, torch.zeros_like(u))
            if __name__ == "__main__":
                import sys
                u = torch.randn(7, 9, generator=torch.Generator().manual_seed(1))
                ffc.compile(sample, (u,), schedule="jacobi").save(sys.argv[1])
                torch.save({"u": u * 2, "x": sample(u * 2)}, sys.argv[2])
        """)
    )
    file, data = tmp_path / "m.ffc", tmp_path / "m.pt"
    subprocess.run([sys.executable, str(module), str(file), str(data)], check=True, cwd=tmp_path, timeout=120)
    loader = textwrap.dedent("""
        import sys, torch, ffcompiler as ffc
        torch.set_num_threads(1)
        try:
            import private_model
        except ImportError:
            pass
        else:
            raise SystemExit("the model's code is importable")
        kept = torch.load(sys.argv[2])
        x, record = ffc.load(sys.argv[1]).run(kept["u"])
        assert torch.equal(x.view(torch.int32), kept["x"].view(torch.int32)), (x - kept["x"]).abs().max()
        print(record.ending.name)
    """)
    done = subprocess.run(
        [sys.executable, "-c", loader, str(file), str(data)], check=False, cwd=tmp_path, timeout=120,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_what_could_not_be_captured_cannot_be_saved(tmp_path: Path) -> None:
    compiled = ffc.compile(lambda u: u + 1, (randn(2),))
    with pytest.raises(ffc.UsageError, match="no program to save"):
        compiled.save(tmp_path / "a.ffc")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------------- several parts


def weights_of(plan: Plan, seed: int) -> list[dict[str, Tensor]]:
    """Weights for every part, the same for the same path."""
    named: dict[str, Tensor] = {}
    found = []
    for part in plan.parts:
        assert part.program is not None
        for w in part.program.weights:
            named.setdefault(w.path, randn(1, *w.type.shape, seed=seed + len(named))[0])
        found.append({w.name: named[w.path] for w in part.program.weights})
    return found


def test_parts_come_back_with_their_weights_and_shared_ones_are_stored_once() -> None:
    weights = weights_of(TWO_PARTS, 0)
    data = to_bytes(TWO_PARTS, weights)
    assert sorted(safetensors.torch.load(members(data)[WEIGHTS])) == ["part2.w2", "w1", "w2"]
    plan, found = from_bytes(data)
    assert plan == TWO_PARTS and [sorted(part) for part in found] == [["w1", "w2"], ["w1", "w2"]]
    for part, expected in zip(found, weights, strict=True):
        for name, tensor in expected.items():
            assert_same(part[name], tensor)
    assert found[1]["w1"] is found[0]["w1"]
    assert to_bytes(plan, found) == data


def test_weights_of_one_path_that_differ_are_both_stored() -> None:
    """A path names one tensor at a time; where it does not, no part may be given another's."""
    first, second = weights_of(TWO_PARTS, 0)
    data = to_bytes(TWO_PARTS, [first, {**second, "w1": second["w1"] + 1}])
    assert sorted(safetensors.torch.load(members(data)[WEIGHTS])) == ["part2.w1", "part2.w2", "w1", "w2"]
    _, found = from_bytes(data)
    assert_same(found[0]["w1"], first["w1"])
    assert_same(found[1]["w1"], second["w1"] + 1)


def test_a_part_whose_own_weights_are_missing_is_refused(tmp_path: Path) -> None:
    data = to_bytes(TWO_PARTS, weights_of(TWO_PARTS, 0))
    stored = safetensors.torch.load(members(data)[WEIGHTS])
    for change in ({"part2.w2": None}, {"w1": None}, {"part3.w1": torch.ones(1)}, {"part1.w1": torch.ones(1)}):
        other = {k: v for k, v in {**stored, **change}.items() if v is not None}
        changed = rebuilt(data, weights=safetensors.torch.save(other))
        assert next(iter(change)) in refuse(changed, tmp_path)


def test_a_file_from_before_there_were_parts_is_read(tiny: bytes) -> None:
    parts = members(tiny)
    assert b'"rest"' not in parts[PLAN]
    older = encode(replace(decode(parts[MANIFEST], Manifest), format=(3, 0)))
    plan, weights = from_bytes(write([(MANIFEST, older), (PLAN, parts[PLAN]), (WEIGHTS, parts[WEIGHTS])]))
    assert plan.parts == (plan,) and len(weights) == 1


# ---------------------------------------------------------------------------------------------------- refusals


def refuse(data: bytes, tmp_path: Path) -> str:
    path = tmp_path / "x.ffc"
    path.write_bytes(data)
    with pytest.raises(ffc.ArtifactError) as caught:
        ffc.load(path)
    assert "x.ffc" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("data", [b"", b"PK", b"\x80\x04K\x01.", b"no artifact" * 10, b"PK\3\4" + b"\0" * 99])
def test_what_is_not_a_container_is_refused(data: bytes, tmp_path: Path) -> None:
    refuse(data, tmp_path)


def test_a_file_that_is_not_there_and_a_folder_are_one_clear_line(tmp_path: Path) -> None:
    for path in (tmp_path / "none.ffc", tmp_path):
        with pytest.raises(ffc.UsageError) as caught:
            ffc.load(path)
        assert "\n" not in str(caught.value)


def members(data: bytes) -> dict[str, bytes]:
    return read(data, (MANIFEST, PLAN, WEIGHTS))


def rebuilt(data: bytes, **changed: bytes) -> bytes:
    """The container with members replaced and every hash made right again."""
    parts = {**members(data), **{{"plan": PLAN, "weights": WEIGHTS}[k]: v for k, v in changed.items()}}
    manifest = replace(
        decode(parts[MANIFEST], Manifest),
        plan_sha256=hashlib.sha256(parts[PLAN]).hexdigest(),
        weights_sha256=hashlib.sha256(parts[WEIGHTS]).hexdigest(),
    )
    return write([(MANIFEST, encode(manifest)), (PLAN, parts[PLAN]), (WEIGHTS, parts[WEIGHTS])])


def test_rebuilding_changes_nothing(tiny: bytes) -> None:
    assert rebuilt(tiny) == tiny


def test_a_changed_byte_anywhere_is_refused(tiny: bytes) -> None:
    """Every byte before the plan (the whole manifest), and positions spread over the rest."""
    head = tiny.index(PLAN.encode())
    positions = [
        *range(head + 40),
        *range(head + 40, len(tiny), max(1, len(tiny) // 600)),
        *range(len(tiny) - 150, len(tiny)),
    ]
    for position in positions:
        for flip in (0x01, 0x80):
            changed = bytearray(tiny)
            changed[position] ^= flip
            with pytest.raises((ffc.ArtifactError, ffc.InvalidPlanError)):
                from_bytes(bytes(changed))


def test_a_truncated_or_extended_file_is_refused(tiny: bytes, tmp_path: Path) -> None:
    for data in (tiny[:-1], tiny[: len(tiny) // 2], tiny[:40], tiny + b"\0", b"\0" + tiny, tiny + tiny):
        refuse(data, tmp_path)


def test_a_file_of_an_older_major_version_is_to_be_compiled_again(tiny: bytes, tmp_path: Path) -> None:
    parts = members(tiny)
    manifest = replace(decode(parts[MANIFEST], Manifest), format=(1, 0))
    older = write([(MANIFEST, encode(manifest)), (PLAN, parts[PLAN]), (WEIGHTS, parts[WEIGHTS])])
    fault = refuse(older, tmp_path)
    assert "1.0" in fault and "compile it again" in fault and "upgrade" not in fault


def test_a_newer_major_version_says_what_to_do_and_a_newer_minor_is_read(tiny: bytes, tmp_path: Path) -> None:
    parts = members(tiny)
    manifest = decode(parts[MANIFEST], Manifest)
    major, _ = FORMAT

    def written(version: tuple[int, int]) -> bytes:
        changed = encode(replace(manifest, format=version))
        return write([(MANIFEST, changed), (PLAN, parts[PLAN]), (WEIGHTS, parts[WEIGHTS])])

    newer, older = written((major + 1, 0)), written((major - 1, 0))
    assert f"{major + 1}.0" in refuse(newer, tmp_path) and "upgrade" in refuse(newer, tmp_path)
    assert f"{major - 1}.0" in refuse(older, tmp_path) and "upgrade" not in refuse(older, tmp_path)
    from_bytes(written((major, 9)))


@pytest.mark.parametrize("missing", [MANIFEST, PLAN, WEIGHTS])
def test_a_missing_member_is_refused(missing: str, tiny: bytes, tmp_path: Path) -> None:
    parts = members(tiny)
    assert missing in refuse(write([(k, v) for k, v in parts.items() if k != missing]), tmp_path)


def test_members_in_another_order_are_refused(tiny: bytes, tmp_path: Path) -> None:
    refuse(write(list(members(tiny).items())[::-1]), tmp_path)


@pytest.mark.parametrize("op", ["aten.from_file.default", "aten.system.default", "os.system", "aten.add_.Tensor"])
def test_an_operator_that_is_not_admitted_is_refused(op: str, tiny: bytes, tmp_path: Path) -> None:
    plan = members(tiny)[PLAN]
    assert b"aten.tanh.default" in plan
    message = refuse(rebuilt(tiny, plan=plan.replace(b"aten.tanh.default", op.encode())), tmp_path)
    assert "not admitted" in message or "op" in message


def test_weights_that_do_not_support_the_plan_are_refused_though_hashes_are_right(tiny: bytes, tmp_path: Path) -> None:
    weights = safetensors.torch.load(members(tiny)[WEIGHTS])
    changed = 0
    for name, value in weights.items():
        if value.dim() == 2 and bool((value == 0).any()):
            other = {**weights, name: torch.ones_like(value)}
            message = refuse(rebuilt(tiny, weights=safetensors.torch.save(other)), tmp_path)
            assert "compile" in message
            changed += 1
    assert changed


def test_weights_that_are_missing_extra_or_of_another_shape_are_refused(tiny: bytes, tmp_path: Path) -> None:
    weights = safetensors.torch.load(members(tiny)[WEIGHTS])
    first = next(iter(weights))
    for other in (
        {k: v for k, v in weights.items() if k != first},
        {**weights, "extra": torch.ones(1)},
        {**weights, first: torch.ones(99)},
        {**weights, first: weights[first].double()},
    ):
        refuse(rebuilt(tiny, weights=safetensors.torch.save(other)), tmp_path)


def test_a_refused_plan_that_is_made_to_claim_a_schedule_is_refused(tmp_path: Path) -> None:
    """The proof is made again from the file: a schedule on a program that leaks is not believed."""
    function, args = SYSTEMS["leaking"].make()
    compiled = ffc.compile(function, args)
    assert compiled.live is not None
    forged = replace(compiled.plan, refusal=None, schedule=Schedule(Method.JACOBI))
    (tmp_path / "x.ffc").write_bytes(to_bytes(forged, [compiled.live.weights()]))
    with pytest.raises(ffc.ArtifactError):
        ffc.load(tmp_path / "x.ffc")


def test_a_plan_without_its_premises_is_refused(tmp_path: Path) -> None:
    compiled = saved(tmp_path / "a.ffc")
    assert compiled.live is not None and compiled.plan.premises
    forged = replace(compiled.plan, premises=compiled.plan.premises[1:])
    (tmp_path / "x.ffc").write_bytes(to_bytes(forged, [compiled.live.weights()]))
    with pytest.raises(ffc.ArtifactError, match="premises"):
        ffc.load(tmp_path / "x.ffc")


def test_sha256_is_checked_when_it_is_given(tiny: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.ffc"
    path.write_bytes(tiny)
    digest = hashlib.sha256(tiny).hexdigest()
    ffc.load(path, sha256=digest)
    ffc.load(path, sha256=digest.upper())
    with pytest.raises(ffc.ArtifactError, match="SHA-256"):
        ffc.load(path, sha256="0" * 64)


def test_a_device_that_is_not_there_is_one_clear_line(tiny: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.ffc"
    path.write_bytes(tiny)
    for device in ("cuda:99", "nonsense", "privateuseone"):
        with pytest.raises(ffc.UsageError, match="not available") as caught:
            ffc.load(path, device=device)
        assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------- saving


def test_an_existing_file_is_kept_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "a.ffc"
    path.write_text("mine")
    function, args = affine(Made(3), 3), (randn(2, 3),)
    compiled = ffc.compile(function, args, schedule="jacobi")
    with pytest.raises(ffc.UsageError):
        compiled.save(path)
    assert path.read_text() == "mine"
    compiled.save(path, force=True)
    assert_same(ffc.load(path)(*args), function(*args))
    assert [p.name for p in tmp_path.iterdir()] == ["a.ffc"]


def test_the_same_plan_and_weights_give_the_same_bytes_whatever_the_hash_seed(tmp_path: Path) -> None:
    compiled = saved(tmp_path / "a.ffc")
    assert compiled.live is not None
    assert to_bytes(compiled.plan, [compiled.live.weights()]) == (tmp_path / "a.ffc").read_bytes()
    again = ffc.load(tmp_path / "a.ffc")
    again.save(tmp_path / "b.ffc")
    assert (tmp_path / "a.ffc").read_bytes() == (tmp_path / "b.ffc").read_bytes()
    script = (
        "import sys, hashlib, ffcompiler as ffc; c = ffc.load(sys.argv[1]); c.save(sys.argv[2]); "
        "print(hashlib.sha256(open(sys.argv[2], 'rb').read()).hexdigest())"
    )
    digests = set()
    for seed in ("1", "2"):
        out = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "a.ffc"), str(tmp_path / f"s{seed}.ffc")],
            env={"PYTHONHASHSEED": seed, "PATH": ""}, cwd=tmp_path, timeout=120,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        digests.add(out.stdout)
    assert len(digests) == 1


def test_the_weights_saved_are_those_of_now(tmp_path: Path) -> None:
    model = Made(4)
    function, args = affine(model, 4), (randn(2, 4),)
    compiled = ffc.compile(function, args, schedule="jacobi")
    with torch.no_grad():
        model.fc.weight.mul_(2)
    compiled.save(tmp_path / "a.ffc")
    assert_same(ffc.load(tmp_path / "a.ffc")(*args), function(*args))


def test_a_mask_that_is_an_argument_can_be_saved_and_loaded(tmp_path: Path) -> None:
    """Its zeros are a premise of each call: the proof needs the arguments of the call."""
    weight = randn(5, 5)

    def sample(u: Tensor, mask: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            y = torch.tanh(x @ (weight * mask)) + u
            x = x.clone()
            x[:, i] = y[:, i]
            return x

        return ffc.fori_loop(0, 5, step, torch.zeros_like(u))

    good, bad = torch.ones(5, 5).triu(1), torch.ones(5, 5)
    compiled = bold(ffc.compile(sample, (randn(2, 5), good), schedule="jacobi"))
    for mask in (good, bad, good):
        assert_same(compiled(randn(2, 5), mask), sample(randn(2, 5), mask))
    compiled.save(tmp_path / "a.ffc")
    again = bold(ffc.load(tmp_path / "a.ffc"))
    for mask in (good, bad, good):
        assert_same(again(randn(2, 5), mask), sample(randn(2, 5), mask))


def test_weights_of_odd_layouts_come_back(tmp_path: Path) -> None:
    wide = randn(6, 9)[:, 1:7]
    flipped = randn(6, 6).t()
    scalar = torch.tensor(0.3)
    spread = torch.tensor([0.5]).expand(6)

    def sample(u: Tensor) -> Tensor:
        def step(i: int, x: Tensor) -> Tensor:
            y = torch.tanh((x @ wide.triu(1)) @ flipped.triu(0)) * spread + u * scalar
            x = x.clone()
            x[:, i] = y[:, i]
            return x

        return ffc.fori_loop(0, 6, step, torch.zeros_like(u))

    args = (randn(2, 6),)
    compiled = ffc.compile(sample, args, schedule="jacobi")
    compiled.save(tmp_path / "a.ffc")
    assert_same(ffc.load(tmp_path / "a.ffc")(*args), sample(*args))


# ---------------------------------------------------------------------------------------------------- threads


@pytest.mark.parametrize("loaded", [False, True])
def test_four_threads_share_a_compiled_function(loaded: bool, tmp_path: Path) -> None:
    function = sliced(Made(10), 10, lambda m, s, u: m + F.softplus(s) * u)
    noises = [randn(5, 10, seed=s) for s in range(4)]
    compiled = bold(ffc.compile(function, (noises[0],), schedule="sliding(4)"))
    if loaded:
        compiled.save(tmp_path / "a.ffc")
        compiled = bold(ffc.load(tmp_path / "a.ffc"))
    with torch.no_grad():
        expected = [function(noise) for noise in noises]
    wrong: list[Any] = []

    def work(k: int) -> None:
        torch.set_num_threads(1)
        try:
            for _ in range(5):
                assert_same(compiled(noises[k]), expected[k])
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_manifest_is_plain_json(tiny: bytes) -> None:
    manifest = json.loads(members(tiny)[MANIFEST])
    assert "format" in json.dumps(manifest)
    assert tensors([torch.ones(1)])


def test_an_artifact_is_called_in_the_modes_that_it_was_compiled_for(tiny: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.ffc").write_bytes(tiny)
    again = ffc.load(tmp_path / "a.ffc")
    again(randn(1, 2))
    for modes, says in (
        (torch.autocast("cpu", torch.bfloat16), "autocast on cpu was None, is torch.bfloat16"),
        (torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH), "the kernels of scaled dot products"),
    ):
        with modes, pytest.raises(ffc.SignatureError, match=says):
            again(randn(1, 2))
