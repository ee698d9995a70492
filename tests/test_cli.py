"""The command line: what it prints, what it leaves, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from ffcompiler import Compiled
from ffcompiler.cli import main, terminal
from ffcompiler.cli.parser import make_parser
from ffcompiler.stored.files import replace_file
from ffcompiler.zoo.made import MADE, logistic_noise

DIMS = 16
MODULE = "tiny_for_the_cli"
SOURCE = f"""
import torch
from ffcompiler import fori_loop
from ffcompiler.zoo.made import MADE, logistic_noise, sample

torch.manual_seed(0)
model = MADE({DIMS}, (24, 24)).eval().requires_grad_(False)

def draw(noise):
    return sample(model, noise)

draw.example_inputs = lambda: (logistic_noise(3, 0, {DIMS}),)

def scaled(noise, scale=1.0):
    return {{"x": sample(model, noise), "scaled": scale * noise}}

def twice(noise):
    first = sample(model, noise)
    return {{"first": first, "second": sample(model, first)}}

twice.example_inputs = draw.example_inputs

def one_leaks(noise):
    return leaky(sample(model, noise))

one_leaks.example_inputs = draw.example_inputs

def leaky(noise):
    def step(i, x):
        x = x.clone()
        x[:, i] = x.sum(1) + noise[:, i]
        return x
    return fori_loop(0, {DIMS}, step, torch.zeros_like(noise))

leaky.example_inputs = draw.example_inputs

def straight(noise):
    return noise * 2

straight.example_inputs = draw.example_inputs

def raises(noise):
    raise RuntimeError("broken on purpose")

raises.example_inputs = draw.example_inputs

def misfit(noise):
    return noise

misfit.example_inputs = lambda: (1, 2, 3)
number = 3

class Module(torch.nn.Module):
    def forward(self, noise):
        for _ in range(4):
            noise = torch.relu(noise)
        return noise

module = Module()
"""


@pytest.fixture(autouse=True)
def _sweeps_whatever_they_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny model is rarely worth a sweep; the guard would say so, depending on the machine."""
    monkeypatch.setattr("ffcompiler.runtime.guard.SLACK", 1e9)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    (folder / f"{MODULE}.py").write_text(SOURCE, encoding="utf-8")
    return folder


@pytest.fixture
def here(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder; the tiny module can be imported; `noise.npy` lies there."""
    monkeypatch.syspath_prepend(str(tiny_folder))
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "noise.npy", logistic_noise(3, 1, DIMS).numpy())
    return tmp_path


@pytest.fixture(scope="session")
def artifact(tiny_folder: Path) -> Path:
    path = tiny_folder / "tiny.ffc"
    sys.path.insert(0, str(tiny_folder))
    try:
        assert main(["compile", f"{MODULE}:draw", "-o", str(path), "--schedule", "jacobi", "--quiet"]) == 0
    finally:
        sys.path.remove(str(tiny_folder))
    return path


def text_of(capsys: pytest.CaptureFixture[str], code: int, expected: int) -> str:
    """What was printed, both streams, of a command that ended with ``expected``."""
    out, err = capsys.readouterr()
    assert code == expected, out + err
    return out + err


def json_of(capsys: pytest.CaptureFixture[str], code: int, expected: int = 0) -> dict:
    out, err = capsys.readouterr()
    assert code == expected, out + err
    document: dict = json.loads(out)
    return document


# ---------------------------------------------------------------------------------------------------- the frame


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["compile", "--help"]])
def test_help_and_version_end_with_0(argv, capsys):
    assert "ff" in text_of(capsys, main(argv), 0)


@pytest.mark.parametrize("argv", [[], ["nonsense"], ["demo", "--batch", "0"], ["bench", "other"], ["compile"]])
def test_a_wrong_command_line_ends_with_2(argv, capsys):
    assert "usage:" in text_of(capsys, main(argv), 2)


def test_help_does_not_load_torch():
    code = "import sys; from ffcompiler.cli import main; main(['--help']); sys.exit('torch' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_every_command_takes_json_and_quiet():
    wanted = {"compile": ["f"], "explain": ["f"], "inspect": ["f"], "run": ["f"], "verify": ["f"], "bench": ["made"]}
    for command in ("demo", "compile", "explain", "inspect", "run", "verify", "bench", "doctor"):
        options = make_parser().parse_args([command, "--json", "--quiet", *wanted.get(command, [])])
        assert options.json and options.quiet


def test_ctrl_c_ends_with_130_and_one_line(here, monkeypatch, capsys):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("ffcompiler.cli.targets.compile_function", interrupt)
    code = main(["compile", f"{MODULE}:draw", "-o", "x.ffc"])
    assert text_of(capsys, code, 130) == "interrupted; files are written whole or not at all\n"
    assert sorted(os.listdir(here)) == ["noise.npy"]


def test_ctrl_c_while_a_file_is_written_leaves_nothing(here, monkeypatch, capsys):
    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr("ffcompiler.stored.files.os.fsync", interrupt)
    text_of(capsys, main(["compile", f"{MODULE}:draw", "-o", "x.ffc", "--schedule", "jacobi"]), 130)
    assert sorted(os.listdir(here)) == ["noise.npy"]


def test_a_closed_pipe_is_no_fault_of_the_user(here, tiny_folder):
    command = f"{sys.executable} -m ffcompiler.cli doctor | true"
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in run.stderr and "Exception" not in run.stderr


@pytest.mark.parametrize("command", ["compile", "explain", "verify"])
def test_an_error_in_the_users_function_shows_where_and_ends_with_1(here, capsys, command):
    shown = text_of(capsys, main([command, f"{MODULE}:raises"]), 1)
    assert "the function, run on its example inputs, raises RuntimeError: broken on purpose\n" in shown
    assert f"{MODULE}.py:" in shown and "in raises" in shown and "Traceback" not in shown


def test_an_error_of_ours_shows_the_whole_way_to_it(here, capsys, monkeypatch):
    monkeypatch.setattr("ffcompiler.recipe.capture", None)
    shown = text_of(capsys, main(["explain", f"{MODULE}:draw"]), 1)
    assert "Traceback" in shown and shown.endswith("TypeError: 'NoneType' object is not callable\n")


def test_a_module_is_asked_for_the_arguments_of_its_forward(here, capsys):
    shown = text_of(capsys, main(["compile", f"{MODULE}:module"]), 2)
    assert f"{MODULE}:module needs an input for noise: give --input noise=@FILE.npy" in shown
    text_of(capsys, main(["explain", f"{MODULE}:module", "--input", "noise=@noise.npy"]), 0)


def test_a_class_is_no_function(here, capsys):
    assert "is a class" in text_of(capsys, main(["compile", f"{MODULE}:Module"]), 2)


def test_errors_are_json_too(here, capsys):
    document = json_of(capsys, main(["explain", "--json", "no_such_module:f"]), 2)
    assert document["exit_code"] == 2 and document["error"]["kind"] == "UsageError"


def test_json_has_no_numbers_that_json_does_not_know():
    text = terminal.to_json({"a": [float("nan"), float("inf")], "b": (1, None, True), "c": Path("x")})
    assert json.loads(text) == {"a": ["nan", "inf"], "b": [1, None, True], "c": "x"}


def test_progress_is_silent_where_stderr_is_no_terminal(capsys):
    with terminal.Terminal().progress() as say:
        say("work", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_progress_is_drawn_on_a_terminal_and_goes_to_stderr(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    with terminal.Terminal().progress() as say:
        say("work", 1, 2)
    out, err = capsys.readouterr()
    assert out == "" and "work" in err
    with terminal.Terminal(quiet=True).progress() as say:
        say("work", 1, 2)
    assert capsys.readouterr().err == ""


# ---------------------------------------------------------------------------------------------------- names and inputs


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("no_such_module:f", "there is no module 'no_such_module'"),
        (f"{MODULE}:drow", "did you mean 'draw'"),
        (f"{MODULE}:number", "is no function, but an object of type int"),
        (MODULE, f"as in {MODULE}:FUNCTION"),
        (f"{MODULE}.draw", f"as in {MODULE}:draw"),
        (f"models/{MODULE}.py", f"as in models.{MODULE}:FUNCTION"),
        (f"{MODULE}.py:draw", f"of a file write the module, as in {MODULE}:FUNCTION"),
        (f"{MODULE}:", "write package.module:attribute"),
        (":draw", "write package.module:attribute"),
        (f"{MODULE}:scaled", "needs an input for noise"),
    ],
)
def test_a_bad_function_name_is_a_usage_error(here, capsys, function, message):
    assert message in text_of(capsys, main(["compile", function, "-o", "x.ffc"]), 2)


def test_a_command_without_words_shows_what_there_is(capsys):
    shown = text_of(capsys, main([]), 2)
    assert "compile a function and save it" in shown and "exit codes" in shown


def test_run_says_what_to_do_with_a_function(here, capsys):
    assert f"`ffc compile {MODULE}:draw` makes one" in text_of(capsys, main(["run", f"{MODULE}:draw"]), 2)


def test_a_word_that_is_neither_file_nor_function_says_so(here, capsys):
    assert "neither a file nor a function" in text_of(capsys, main(["explain", "made"]), 2)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("noise", "write NAME=@FILE.npy"),
        ("=3", "write NAME=@FILE.npy"),
        ("noise=@absent.npy", "there is no file absent.npy"),
        ("noise=@text.npy", "cannot be read as .npy"),
        ("noise=@words.npy", "there is no tensor"),
        ("nose=1", "has no parameter 'nose'"),
    ],
)
def test_a_bad_input_is_a_usage_error(here, capsys, word, message):
    (here / "text.npy").write_text("not an array")
    np.save(here / "words.npy", np.array(["a", "b"]))
    assert message in text_of(capsys, main(["explain", f"{MODULE}:draw", "--input", word]), 2)


def test_an_input_given_twice_is_a_usage_error(here, capsys):
    words = ["--input", "noise=1", "--input", "noise=2"]
    assert "given twice" in text_of(capsys, main(["explain", f"{MODULE}:draw", *words]), 2)


def test_pickles_are_not_read(here, capsys):
    np.save(here / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert "allow_pickle" in text_of(capsys, main(["explain", f"{MODULE}:draw", "--input", "noise=@objects.npy"]), 2)


def test_example_inputs_that_do_not_fit_are_named(here, capsys):
    assert "misfit.example_inputs() does not fit" in text_of(capsys, main(["explain", f"{MODULE}:misfit"]), 1)


def test_the_current_folder_is_searched_for_modules(tiny_folder, tmp_path):
    command = [sys.executable, "-m", "ffcompiler.cli", "explain", f"{MODULE}:leaky", "--json"]
    run = subprocess.run(command, cwd=tiny_folder, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["verdict"].startswith("sequential") and run.stderr == ""


@pytest.mark.parametrize("equality", ["close", "tolerance:1", "tolerance:1,-1", "tolerance:a,b"])
def test_an_equality_that_does_not_exist_is_a_usage_error(here, capsys, equality):
    assert "--equality is" in text_of(capsys, main(["explain", f"{MODULE}:draw", "--equality", equality]), 2)


def test_a_schedule_that_does_not_exist_is_a_usage_error(here, capsys):
    assert "there is no schedule" in text_of(capsys, main(["explain", f"{MODULE}:draw", "--schedule", "jacoby"]), 2)
    shown = text_of(capsys, main(["explain", f"{MODULE}:draw", "--schedule", "sliding+windows"]), 2)
    assert "sliding+windows needs a number of blocks, as in sliding(16)+windows" in shown


def test_a_device_that_is_not_there_is_one_line(here, capsys):
    shown = text_of(capsys, main(["explain", f"{MODULE}:draw", "--device", "nonsense"]), 2)
    assert "device 'nonsense' is not available here" in shown and shown.count("\n") == 1


# ---------------------------------------------------------------------------------------------------- compile


def test_compile_says_its_verdict_and_saves(here, capsys):
    shown = text_of(capsys, main(["compile", f"{MODULE}:draw", "--schedule", "jacobi"]), 0)
    assert shown.startswith("jacobi: ") and "wrote draw.ffc" in shown and (here / "draw.ffc").is_file()


def test_compile_with_a_tolerance(here, capsys):
    argv = ["compile", f"{MODULE}:draw", "--json", "--schedule", "jacobi", "--equality", "tolerance:1e-3,1e-4"]
    assert "tolerance(rtol=0.001, atol=0.0001)" in json_of(capsys, main(argv))["verdict"]


def test_an_existing_file_is_kept_before_any_time_is_spent(here, capsys, monkeypatch):
    (here / "x.ffc").write_text("mine")
    monkeypatch.setattr("ffcompiler.cli.targets.compile_function", lambda *a, **k: pytest.fail("compiled"))
    assert "x.ffc exists" in text_of(capsys, main(["compile", f"{MODULE}:draw", "-o", "x.ffc"]), 2)
    assert (here / "x.ffc").read_text() == "mine"


def test_force_replaces_a_file(here, capsys):
    (here / "x.ffc").write_text("mine")
    text_of(capsys, main(["compile", f"{MODULE}:draw", "-o", "x.ffc", "--force", "--schedule", "jacobi"]), 0)
    assert (here / "x.ffc").read_bytes()[:2] == b"PK"


@pytest.mark.parametrize("output", ["noise.npy/x.ffc", "absent/x.ffc", ".", "made/"])
def test_a_place_that_cannot_be_written_is_one_line(here, capsys, output):
    shown = text_of(capsys, main(["compile", f"{MODULE}:draw", "-o", output]), 2)
    assert shown.count("\n") == 1 and shown.startswith("UsageError: ")


def test_a_leak_compiles_to_sequential_unless_insisted(here, capsys):
    assert json_of(capsys, main(["explain", "--json", f"{MODULE}:leaky"]))["verdict"].startswith("sequential")
    shown = text_of(capsys, main(["compile", f"{MODULE}:leaky", "--require-parallel"]), 3)
    assert "--require-parallel" in shown and not (here / "leaky.ffc").exists()
    assert "CausalityError" in text_of(capsys, main(["compile", f"{MODULE}:leaky", "--schedule", "jacobi"]), 3)
    assert "CausalityError" in text_of(capsys, main(["compile", f"{MODULE}:leaky", "--on-unsupported", "raise"]), 3)
    kept = ["compile", f"{MODULE}:leaky", "--schedule", "jacobi", "--on-unsupported", "sequential"]
    assert text_of(capsys, main(kept), 0).startswith("sequential")


def test_a_function_without_a_loop_ends_with_3_only_when_insisted(here, capsys):
    text_of(capsys, main(["explain", f"{MODULE}:straight"]), 0)
    assert "could not be captured" in text_of(capsys, main(["compile", f"{MODULE}:straight"]), 1)
    text_of(capsys, main(["compile", f"{MODULE}:straight", "--schedule", "jacobi"]), 3)
    text_of(capsys, main(["compile", f"{MODULE}:straight", "--require-parallel"]), 3)


# ---------------------------------------------------------------------------------------------------- explain, inspect


def test_explain_and_inspect_an_artifact(here, capsys, artifact):
    assert text_of(capsys, main(["explain", str(artifact)]), 0).startswith("jacobi: ")
    assert text_of(capsys, main(["inspect", str(artifact)]), 0).startswith("schedule    jacobi")
    document = json_of(capsys, main(["inspect", str(artifact), "--json"]))
    assert document["plan"].startswith("schedule") and document["candidates"]


def test_options_of_compiling_are_refused_for_an_artifact(here, capsys, artifact):
    assert "compiled already" in text_of(capsys, main(["explain", str(artifact), "--schedule", "jacobi"]), 2)


def test_inspect_writes_a_page_with_the_front_of_a_run(here, capsys, artifact):
    argv = ["inspect", f"{MODULE}:draw", "--schedule", "jacobi", "-o", "page.html"]
    assert "wrote page.html" in text_of(capsys, main(argv), 0)
    assert "<svg" in (here / "page.html").read_text(encoding="utf-8")
    assert "page.html exists" in text_of(capsys, main(argv), 2)
    text_of(capsys, main(["inspect", str(artifact), "-o", "file.html"]), 0)
    assert "<svg" not in (here / "file.html").read_text(encoding="utf-8")


def test_a_file_that_is_no_artifact_ends_with_1(here, capsys):
    (here / "x.ffc").write_text("nonsense")
    assert "ArtifactError: x.ffc" in text_of(capsys, main(["explain", "x.ffc"]), 1)


def test_a_missing_artifact_ends_with_2(here, capsys):
    assert "there is no file absent.ffc" in text_of(capsys, main(["run", "absent.ffc"]), 2)


# ---------------------------------------------------------------------------------------------------- run, verify


def test_run_gives_the_bits_of_the_function(here, capsys, artifact):
    argv = ["run", str(artifact), "--input", "noise=@noise.npy", "--output", "x.npy", "--output-record", "run.json"]
    assert "784" not in (shown := text_of(capsys, main(argv), 0)) and f"for {DIMS} steps" in shown
    tiny = sys.modules[MODULE]
    expected = tiny.draw(logistic_noise(3, 1, DIMS)).numpy()
    np.testing.assert_array_equal(np.load(here / "x.npy"), expected)
    assert json.loads((here / "run.json").read_text())["blocks"] == DIMS
    assert "x.npy exists" in text_of(capsys, main(argv), 2)


def test_a_missing_input_lists_what_is_wanted(here, capsys, artifact):
    shown = text_of(capsys, main(["run", str(artifact), "--input", "x=1"]), 2)
    assert "noise is missing" in shown and "there is no input 'x'" in shown and "float32[3, 16]" in shown
    assert "inputs have to be given" in text_of(capsys, main(["verify", str(artifact)]), 2)


def test_an_input_of_another_shape_is_named(here, capsys, artifact):
    np.save(here / "long.npy", np.zeros((4, DIMS)))
    shown = text_of(capsys, main(["run", str(artifact), "--input", "noise=@long.npy"]), 1)
    assert "SignatureError" in shown and "float64[4, 16]" in shown


def test_several_results_get_an_index_each(here, capsys):
    given = ["--input", "noise=@noise.npy"]
    options = [*given, "--input", "scale=2.0", "--schedule", "jacobi", "-o", "s.ffc"]
    text_of(capsys, main(["compile", f"{MODULE}:scaled", *options]), 0)
    document = json_of(capsys, main(["run", "s.ffc", "--json", *given, "--output", "r.npy"]))
    assert [r["path"] for r in document["results"]] == ["['x']", "['scaled']"]
    np.testing.assert_array_equal(np.load(here / "r-1.npy"), 2 * np.load(here / "noise.npy"))
    text_of(capsys, main(["run", "s.ffc", *given, "--input", "scale=3.0"]), 1)


def test_every_command_tells_of_every_loop_of_several(here, capsys):
    given, loops = ["--input", "noise=@noise.npy"], "2 parts, one for each loop: parts 1 and 2 by jacobi"
    compiled = text_of(capsys, main(["compile", f"{MODULE}:twice", "--schedule", "jacobi", "--require-parallel"]), 0)
    assert compiled.startswith(loops) and compiled.count("\n  part ") == 2
    explained = text_of(capsys, main(["explain", "twice.ffc"]), 0)
    assert explained.startswith(loops) and "==== part 2 of 2 ====" in explained
    assert len(json_of(capsys, main(["explain", "--json", "twice.ffc"]))["parts"]) == 2
    shown = text_of(capsys, main(["run", "twice.ffc", *given, "--output", "r.npy", "--output-record", "run.json"]), 0)
    assert "bits in each of 2 parts\n  part 1: 16 blocks" in shown
    assert shown.count(f" for {DIMS} steps") == 2
    assert len(json.loads((here / "run.json").read_text())["parts"]) == 2
    expected = sys.modules[MODULE].twice(logistic_noise(3, 1, DIMS))
    np.testing.assert_array_equal(np.load(here / "r-0.npy"), expected["first"].numpy())
    np.testing.assert_array_equal(np.load(here / "r-1.npy"), expected["second"].numpy())
    assert "bits in each of 2 parts" in text_of(capsys, main(["verify", "twice.ffc", *given]), 0)
    text_of(capsys, main(["inspect", "twice.ffc", *given, "-o", "page.html"]), 0)
    assert (here / "page.html").read_text().count("<svg") == 2


def test_one_parallel_loop_of_several_is_parallel_enough(here, capsys):
    argv = ["compile", f"{MODULE}:one_leaks", "--require-parallel", "--schedule", "jacobi", "--on-unsupported"]
    shown = text_of(capsys, main([*argv, "sequential"]), 0)
    assert shown.startswith("2 parts, one for each loop: part 1 by jacobi, part 2 sequentially")
    assert "part 2" in shown and "no parallel schedule is sound" in shown


def test_verify_a_function_and_an_artifact(here, capsys, artifact):
    assert "bits equal" in text_of(capsys, main(["verify", f"{MODULE}:draw", "--schedule", "jacobi"]), 0)
    document = json_of(capsys, main(["verify", "--json", str(artifact), "--input", "noise=@noise.npy"]))
    assert document["equal"] and document["differences"] == []


def test_verify_from_many_seeds_compares_what_is_drawn(here, capsys, monkeypatch):
    target = "ffcompiler.zoo.draws:bernoulli"
    shown = text_of(capsys, main(["verify", target, "--seeds", "3", "--schedule", "jacobi"]), 0)
    assert "3 seeds, 0 differences in results or in what is left of the generator" in shown
    assert "of 384 steps by sweeps (jacobi)" in shown
    monkeypatch.setattr("ffcompiler.compiled.same_states", lambda a, b: False)
    document = json_of(capsys, main(["verify", "--json", target, "--seeds", "2"]), 1)
    assert document["equal"] is False and document["differing"] == [0, 1]


def test_verify_ends_with_1_where_bits_differ(here, capsys, artifact, monkeypatch):
    reference = Compiled.reference
    monkeypatch.setattr(Compiled, "reference", lambda self, *a, **k: reference(self, *a, **k) + 1)
    shown = text_of(capsys, main(["verify", str(artifact), "--input", "noise=@noise.npy"]), 1)
    assert "output 0 differs" in shown


# ---------------------------------------------------------------------------------------------------- doctor, demo


def test_doctor_tells_what_decides_bits(capsys):
    shown = text_of(capsys, main(["doctor"]), 0)
    assert all(word in shown for word in ("torch", "MKL_CBWR", "float32 matmul", "TF32", "cores", "flush denormals"))
    findings = json_of(capsys, main(["doctor", "--json"]))["findings"]
    assert {"group", "name", "value", "advice"} == set(findings[0])


@pytest.fixture
def small_demo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The demo of a model of the real size with hardly any hidden units."""
    monkeypatch.setattr("ffcompiler.cli.demo.load_model", lambda: MADE(784, (8, 8)).eval().requires_grad_(False))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "ffc-demo"


KEYS = {"schedule", "sweeps", "equations", "seconds", "reference_seconds", "bits_equal", "certificate", "machine"}


def test_the_demo_leaves_its_files_and_can_run_again(small_demo, capsys):
    shown = text_of(capsys, main(["demo", "--batch", "2"]), 0)
    assert "bits           equal" in shown and "the same bits" in shown
    run = json.loads((small_demo / "run.json").read_text())
    assert set(run) >= KEYS and run["equations"] == 784 and run["bits_equal"] and run["loaded_bits_equal"]
    files = sorted(os.listdir(small_demo))
    assert files == ["front.svg", "made.ffc", "plan.txt", "run.json", "samples.png"]
    document = json_of(capsys, main(["demo", "--batch", "3", "--json"]))
    assert document["batch"] == 3 and json.loads((small_demo / "run.json").read_text())["batch"] == 3


def test_the_demo_keeps_out_of_a_folder_that_is_not_its_own(small_demo, capsys):
    small_demo.mkdir()
    (small_demo / "thesis.tex").write_text("mine")
    shown = text_of(capsys, main(["demo"]), 2)
    assert "holds 'thesis.tex'" in shown and shown.count("\n") == 1
    assert os.listdir(small_demo) == ["thesis.tex"]


def test_the_demo_says_where_it_cannot_write(small_demo, capsys):
    replace_file(small_demo, b"a file")
    shown = text_of(capsys, main(["demo", "--output", "ffc-demo/below"]), 2)
    assert "cannot use ffc-demo/below as a folder" in shown and shown.count("\n") == 1


def test_commands_may_run_in_a_thread(capsys):
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(main(["doctor", "--quiet"])))
    thread.start()
    thread.join()
    assert codes == [0]
