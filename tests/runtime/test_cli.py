"""The ``irc`` command as users run it: in a process of its own, in a folder of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import HEADER, IR, MODEL, fails, fill, irc
from safetensors.numpy import load_file  # pyright: ignore[reportUnknownVariableType]
from typer.testing import CliRunner

import tapeir as tp
from tapeir.cli import app


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path)


@pytest.fixture
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """Runs commands in this process, where many are tried; each sets the exception hook."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    return CliRunner()


# run


def test_run(folder: Path) -> None:
    done = irc(
        folder,
        "run",
        "tiny.py",
        "--backend",
        "compiled",
        "--log",
        "log.jsonl",
        "--save",
        "out.safetensors",
        "--",
        "a",
        "--b",
    )
    assert (done.code, done.err) == (0, "")
    first, *lines, trained, test, report = done.out.splitlines()
    assert first == "tiny: 83 parameters, f32, backend compiled, device cpu, seed 0"
    assert [line.split()[:2] for line in lines] == [["step", "2"], ["step", "4"], ["step", "6"]]
    assert trained.startswith("trained 6 steps in ")
    assert test.startswith("test: loss ")
    assert "accuracy" in test
    assert report == "report 6 ['a', '--b']"
    assert len((folder / "log.jsonl").read_text().splitlines()) == 6
    assert load_file(folder / "out.safetensors")["optimizer/step"] == 6


@pytest.mark.parametrize(("dtype", "name"), [("float16", "f16"), ("bfloat16", "bf16")])
def test_run_in_16_bits(folder: Path, dtype: str, name: str) -> None:
    results: list[Any] = []
    for backend in ("eager", "compiled"):
        flags = ["--dtype", dtype, "--backend", backend, "--steps", 6, "--save", f"{backend}.safetensors"]
        done = irc(folder, "run", "tiny.py", *flags)
        assert done.code == 0, done.err
        assert f", {name}, backend {backend}, " in done.out.splitlines()[0]
        results.append((folder / f"{backend}.safetensors").read_bytes())
    assert results[0] == results[1]


def test_run_json(folder: Path) -> None:
    flags = [
        "--dtype",
        "float",
        "--seed",
        3,
        "--steps",
        100,
        "--epochs",
        2,
        "--batch-size",
        12,
        "--lr",
        0.5,
        "--set",
        "shuffle=True",
    ]
    results: list[dict[str, Any]] = []
    for backend, shuffle in (("eager", "False"), ("compiled", "false")):
        flags[-1] = f"shuffle={shuffle}"
        done = irc(folder, "run", "tiny.py", "--json", "--backend", backend, *flags)
        assert done.code == 0, done.err
        results.append(json.loads(done.out))
    eager, compiled = results
    for r in results:
        assert (r["model"], r["parameters"], r["dtype"], r["device"], r["seed"], r["step"], r["steps"]) == (
            "tiny",
            83,
            "f64",
            "cpu",
            3,
            4,
            4,
        )
        assert set(r["test"]) == {"loss", "accuracy"}
    assert (eager["backend"], compiled["backend"]) == ("eager", "compiled")
    assert eager["loss_after"] == compiled["loss_after"]
    assert eager["test"] == compiled["test"]


def test_flags_override_the_file_and_the_file_the_defaults(folder: Path) -> None:
    (folder / "fixed.py").write_text(
        MODEL.replace("tp.Trainer.Config(", 'tp.Trainer.Config(dtype="float", backend="compiled", seed=5, ')
    )
    r = json.loads(irc(folder, "run", "fixed.py", "--json", "--dtype", "float32", "--stop-at", 2).out)
    assert (r["dtype"], r["backend"], r["seed"], r["step"]) == ("f32", "compiled", 5, 2)


def test_names_may_be_functions_or_values_and_data_may_lack_a_test_set(folder: Path) -> None:
    (folder / "functions.py").write_text(
        HEADER + "def model(): return nn.Linear(2, 1)\n"
        "data = tp.data.arrays(np.ones((4, 2)), np.ones((4, 1)))\n"
        "def config(): return tp.Trainer.Config(seed=2)\n"
        "def options(): return tp.Trainer.TrainOptions(steps=2)\n"
    )
    r = json.loads(irc(folder, "run", "functions.py", "--json").out)
    assert (r["seed"], r["step"]) == (2, 2)
    assert "test" not in r


def test_wrong_shape_in_a_model_file(folder: Path) -> None:
    (folder / "wrong.py").write_text(
        HEADER + "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        self.a = nn.Linear(4, 8)\n"
        "        self.scale = nn.Parameter(7)\n"
        "    def forward(self, x):\n"
        "        h = self.a(x)\n"
        "        return h * self.scale\n"
        "model = Net()\n"
        "data = tp.data.arrays(np.ones((5, 4)), np.ones((5, 8)))\n"
        "options = tp.Trainer.TrainOptions(batch_size=5)\n"
    )
    for backend in ("eager", "compiled"):
        text = fails(folder, "run", "wrong.py", "--backend", backend)
        assert "wrong.py:10" in text
        assert "return h * self.scale" in text
        assert "f32[5, 8]" in text
        assert "f32[7]" in text
        assert "rule:" in text
    assert "wrong.py:10" in fails(folder, "dump", "wrong.py")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1\n", ["no module-level name 'model'", "remedy", "bad.py"]),
        ("model = 3\n", ["model is int", "nn.Module"]),
        ("def model():\n    return None\n", ["model is NoneType"]),
        (HEADER + "model = nn.Linear(4, 3\n", ["SyntaxError", "bad.py:4"]),
        (HEADER + "model = nn.Linear(2, 1)\nvalue = 1 / 0\n", ["ZeroDivisionError", "bad.py:5", "value = 1 / 0"]),
        ("import nothing_of_this_name\n", ["ModuleNotFoundError", "nothing_of_this_name", "bad.py:1"]),
        (HEADER + "model = nn.Linear(2, 1)\n", ["no module-level name 'data'", "remedy"]),
        (HEADER + "model = nn.Linear(2, 1)\ndata = [1, 2]\n", ["data is list"]),
        (HEADER + "model = nn.Linear(2, 1)\nconfig = {}\n", ["config is dict", "Trainer.Config"]),
        (HEADER + "model = nn.Linear(2, 1)\ndata = tp.data.csv('none.csv', target='y')\n", ["none.csv", "cannot be read"]),
        (HEADER + "model = nn.Linear(2, 1)\ndef data(): return tp.data.npz('none.npz', 'x')\n", ["none.npz", "is not there"]),
        (HEADER + "model = nn.Linear(2, 1)\nconfig = tp.Trainer.Config(clip_norm=1)\n", ["clip_norm", "bad.py:5"]),
    ],
    ids=["no model", "no module", "none", "syntax", "exception", "import", "no data", "list", "config", "csv", "npz", "field"],
)  # fmt: skip
def test_bad_model_files(source: str, words: list[str], folder: Path) -> None:
    (folder / "bad.py").write_text(source)
    text = fails(folder, "run", "bad.py")
    assert not [w for w in words if w not in text], text


def test_labels_out_of_range(folder: Path) -> None:
    (folder / "labels.py").write_text(MODEL.replace("np.arange(30) % 3", "np.arange(30) % 4"))
    texts = {fails(folder, "run", "labels.py", "--backend", b) for b in ("eager", "compiled")}
    assert len(texts) == 1
    (text,) = texts
    assert "index 3 is out of range" in text
    assert "0 <= index < 3" in text


def test_guarded_runs(folder: Path) -> None:
    (folder / "nan.py").write_text(
        MODEL.replace("    return tp.data", "    x[:, 1] = np.nan\n    return tp.data").replace(
            "nn.BatchNorm1d(8), ", ""
        )
    )
    texts = {fails(folder, "run", "nan.py", "--guard", "nonfinite", "--backend", b) for b in ("eager", "compiled")}
    assert len(texts) == 1
    assert "input %x holds nan" in texts.pop()
    assert irc(folder, "run", "nan.py").code == 0


def test_devices_that_are_not_there(folder: Path) -> None:
    text = fails(folder, "run", "tiny.py", "--cuda")
    assert "'eager'" in text
    assert "'cuda'" in text
    assert irc(folder, "dump", "tiny.py", "--cuda").code == 0, "a dump never asks for the device"


def test_a_checkpoint_that_is_none(folder: Path) -> None:
    (folder / "bad.safetensors").write_text("not a tensor file at all")
    assert "bad.safetensors" in fails(folder, "run", "tiny.py", "--resume", "bad.safetensors")
    assert "is not there" in fails(folder, "run", "tiny.py", "--resume", "none.safetensors")


USAGE = [
    ["run"],
    ["nothing"],
    ["run", "tiny.py", "--unknown"],
    ["run", "none.py"],
    ["run", "m.ir"],
    ["run", "tiny.py", "--dtype", "quad"],
    ["run", "tiny.py", "--backend", "nothing"],
    ["run", "tiny.py", "--device", "tpu"],
    ["run", "tiny.py", "--cpu", "--cuda"],
    ["run", "tiny.py", "--steps", "many"],
    ["run", "tiny.py", "--batch-size", "0"],
    ["run", "tiny.py", "--lr", "-1"],
    ["run", "tiny.py", "--guard", "all"],
    ["run", "tiny.py", "--numerics", "quick"],
    ["run", "tiny.py", "--set", "unknown=1"],
    ["run", "tiny.py", "--set", "clip_norm=1"],
    ["run", "tiny.py", "--set", "accumulate=2"],
    ["run", "tiny.py", "--set", "shuffle"],
    ["run", "tiny.py", "--set", "shuffle=maybe"],
    ["run", "tiny.py", "--set", "progress=3"],
    ["run", "tiny.py", "--set", "log=3"],
    ["run", "tiny.py", "--cuda-mem-watch", "-1"],
    ["dump", "tiny.py", "--stage", "nothing"],
    ["dump", "tiny.py", "--entry", "nothing"],
    ["dump", "tiny.py", "--mode", "nothing"],
    ["dump", "tiny.py", "--entry", "train_step", "--mode", "eval"],
    ["opt", "m.ir"],
    ["opt", "m.ir", "--passes", "nothing"],
    ["opt", "none.ir", "--passes", "dce"],
    ["opt", "m.ir", "--passes", "dce", "--why", "%99"],
    ["check"],
    ["check", "none.ir"],
    ["run", "m.ir", "--lr", "1"],
    ["run", "m.ir", "--save", "x.safetensors"],
    ["run", "m.ir", "--entry", "@none"],
    ["run", "m.ir", "--steps", "2"],
    ["run", "tiny.py", "--entry", "@f"],
    ["run", "tiny.py", "--inputs", "x.npz"],
    ["dump", "tiny.py", "--stage", "program", "--locations"],
    ["dump", "tiny.py", "--stage", "traced", "--after-all", "x"],
    ["opt", "m.ir", "--passes", "dce", "--fuel", "-1"],
    ["opt", "m.ir", "--passes", "dce", "--numerics", "quick"],
    ["opt", "m.ir", "--passes", "dce", "--device", "tpu"],
    ["diff", "m.ir"],
    ["diff", "m.ir", "none.ir"],
    ["diff", "m.ir", "m.txt"],
    ["diff", "m.ir", "m.ir", "--stage", "grad"],
    ["diff", "m.ir", "m.ir", "--stage", "program"],
    ["diff", "m.ir", "m.ir", "--entry", "@none"],
    ["view", "none.py"],
    ["view", "tiny.py", "--entry", "nothing"],
    ["compare", "none.ir"],
    ["compare", "m.ir", "--backends", "compiled,eager"],
    ["compare", "m.ir", "--backends", "eager"],
    ["compare", "tiny.py", "--backends", "eager,nothing"],
    ["compare", "tiny.py", "--inputs", "x.npz"],
    ["compare", "tiny.py", "--entry", "train_step", "--mode", "eval"],
    ["bisect", "m.ir", "--passes", "nothing"],
    ["reduce", "m.ir", "--test", ""],
    ["reduce", "m.ir", "--test", "no-such-command"],
]


@pytest.mark.parametrize("arguments", USAGE, ids=" ".join)
def test_wrong_usage(arguments: list[str], inside: CliRunner) -> None:
    result = inside.invoke(app, arguments)
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output


def test_wrong_usage_in_a_process(folder: Path) -> None:
    assert "--unknown" in fails(folder, "run", "tiny.py", "--unknown", code=2)
    assert "it is eager or compiled" in " ".join(fails(folder, "run", "tiny.py", "--backend", "x", code=2).split())
    text = fails(folder, "run", "tiny.py", "--set", "speed=1", code=2)
    assert "speed" in text
    assert "batch_size" in text


def test_version(inside: CliRunner) -> None:
    assert inside.invoke(app, ["--version"]).output == f"tapeir {tp.__version__}\n"


def test_debug_shows_the_traceback(folder: Path) -> None:
    (folder / "bad.py").write_text("value = 1 / 0\n")
    done = irc(folder, "run", "bad.py", "--debug")
    assert done.code == 1
    assert "Traceback" in done.err


# dump


def test_dumps_of_every_stage_parse_and_verify(inside: CliRunner) -> None:
    texts: dict[tuple[str, str, str], str] = {}
    for stage in ("traced", "grad", "optimized", "fused", "planned", "tape"):
        for entry in ("forward", "loss", "train_step"):
            for mode in ("train", "eval") if entry != "train_step" else ("train",):
                result = inside.invoke(app, ["dump", "tiny.py", "--stage", stage, "--entry", entry, "--mode", mode])
                assert result.exit_code == 0, result.output
                text = texts[stage, entry, mode] = result.stdout
                module = tp.parse(text)
                module.verify()
                assert str(module) == text
    for (stage, entry, mode), text in texts.items():
        if stage == "tape":
            assert text == texts["traced", entry, mode]
    assert texts["grad", "train_step", "train"] == texts["traced", "train_step", "train"]
    assert "%cotangent" in texts["grad", "forward", "train"]
    assert "grad(%0.weight)" in texts["grad", "loss", "train"]
    assert "fused" in texts["fused", "train_step", "train"]
    assert " at arena+" in texts["planned", "train_step", "train"]
    assert "update(%1.running_mean)" in texts["traced", "forward", "train"]
    assert "update" not in texts["traced", "forward", "eval"]


def test_dump_in_a_process(folder: Path) -> None:
    first = irc(folder, "dump", "tiny.py")
    assert (first.code, first.err) == (0, "")
    assert first.out.startswith(
        "module @tiny {\n  func @forward_train(\n    %x: f32[8, 4] input,\n    %0.weight: f32[8, 4] param,\n"
    )
    assert irc(folder, "dump", "tiny.py").out == first.out, "a dump is the same on every run"
    done = irc(folder, "dump", "tiny.py", "--stage", "program", "--entry", "train_step")
    assert done.code == 0
    assert "define i64 @run(" in done.out or "def program(" in done.out
    done = irc(folder, "dump", "tiny.py", "--locations", "-o", "out.ir", "--batch-size", 5, "--dtype", "float")
    assert (done.code, done.out) == (0, "")
    text = (folder / "out.ir").read_text()
    assert '"tiny.py":5 in "0"' in text
    assert "%x: f64[5, 4]" in text
    tp.parse(text).verify()
    done = irc(folder, "dump", "tiny.py", "--stage", "fused", "--after-all", "passes")
    assert done.code == 0
    files = sorted((folder / "passes").glob("*.ir"))
    assert files
    for file in files:
        tp.parse(file.read_text()).verify()


def test_inputs_stand_in_for_data(folder: Path) -> None:
    head = HEADER + "model = nn.Linear(4, 3)\nconfig = tp.Trainer.Config(objective='cross_entropy')\n"
    (folder / "typed.py").write_text(head + "inputs = (tp.f32[6, 4], tp.i64[6])\n")
    (folder / "arrays.py").write_text(head + "inputs = (np.ones((6, 4)), np.zeros(6, int))\n")
    (folder / "neither.py").write_text(head)
    for name in ("typed", "arrays"):
        assert "f32[6, 4]" in irc(folder, "dump", f"{name}.py", "--entry", "loss").out
    assert irc(folder, "dump", "arrays.py", "--stage", "tape").code == 0
    fails(folder, "dump", "typed.py", "--stage", "tape", code=2)
    text = fails(folder, "dump", "neither.py")
    assert "inputs = " in text
    assert "remedy" in text


# opt, check and listings


def test_opt(folder: Path) -> None:
    done = irc(folder, "opt", "m.ir", "--passes", "cse,dce", "--verify-each", "--after-all", "steps")
    assert done.code == 0
    module = tp.parse(done.out)
    module.verify()
    assert [i.op.name for i in module.functions["main"].instructions] == ["mul", "add"]
    assert [line.split(":")[0] for line in done.err.splitlines()] == ["cse", "dce"]
    assert [p.name for p in sorted((folder / "steps").glob("*.ir"))] == ["00-input.ir", "01-cse.ir", "02-dce.ir"]
    done = irc(folder, "opt", "m.ir", "--passes", "cse,dce", "--fuel", 0, "-o", "same.ir")
    assert (done.code, done.out) == (0, "")
    assert (folder / "same.ir").read_text() == IR
    done = irc(folder, "opt", "m.ir", "--passes", "dce", "--fuel", 1)
    assert "exp" not in done.out
    assert done.out.count("mul") == 2


LAYER = """module @layer {
  func @main(%x: f32[3, 4] input, %w: f32[4, 5] param, %b: f32[5] param) -> (f32[3, 5]) {
    %0 = matmul %x, %w {transpose_a = false, transpose_b = false} : f32[3, 5]
    %1 = broadcast_to %b {shape = [3, 5]} : f32[3, 5]
    %2 = add %0, %1 : f32[3, 5]
    return %2
  }
}
"""


def test_opt_for_a_target(folder: Path) -> None:
    (folder / "layer.ir").write_text(LAYER)
    command = ["opt", "layer.ir", "--passes", "compose,dce", "--why", "%2"]
    done = irc(folder, *command)
    assert (done.code, tp.parse(done.out)) == (0, tp.parse(LAYER))
    assert "%2: compose: the target does not compute it whole" in done.err
    done = irc(folder, *command, "--device", "cuda", "--numerics", "fast")
    assert done.code == 0
    assert [i.op.name for i in tp.parse(done.out).functions["main"].instructions] == ["matmul_bias"]
    assert "%2: compose: applied" in done.err


def test_opt_why(folder: Path) -> None:
    (folder / "w.ir").write_text(IR.replace("exp %x", "add %x, %x").replace("return %2", "return %3"))
    done = irc(folder, "opt", "w.ir", "--passes", "canonicalize,fold", "--why", "%3")
    assert done.code == 0
    notes = [line for line in done.err.splitlines() if line.startswith("%3: ")]
    assert notes
    assert all(len(note) > len("%3: ") for note in notes)


def test_check(folder: Path) -> None:
    done = irc(folder, "check", "m.ir", "m.ir")
    assert (done.code, done.err) == (0, "")
    assert done.out == "m.ir: 1 function, 4 ops, valid\n" * 2
    (folder / "type.ir").write_text(
        IR.replace(") -> (f32[3])", ") -> (f32[4])").replace("%0, %1 : f32[3]", "%0, %1 : f32[4]")
    )
    (folder / "text.ir").write_text(IR.replace("%3 = exp", "%3 = = exp"))
    (folder / "name.ir").write_text(IR.replace("return %2", "return %7"))
    (folder / "op.ir").write_text(IR.replace("exp", "nothing"))
    for name, words in (
        ("type", ["type.ir", "add", "f32[4]"]), ("text", ["text.ir:8:", "^"]), ("name", ["name.ir", "%7"]), ("op", ["op.ir", "nothing"]),
    ):  # fmt: skip
        text = fails(folder, "check", f"{name}.ir")
        assert not [w for w in words if w not in text], text
    (folder / "bytes.ir").write_bytes(b"\xff\xfe")
    assert "bytes.ir" in fails(folder, "check", "bytes.ir")


def test_listings(folder: Path) -> None:
    for command, names in (
        ("ops", {"add", "matmul", "relu", "mask", "cross_entropy"}),
        ("passes", {"cse", "dce", "fuse", "plan"}),
        ("backends", {"eager", "compiled"}),
    ):
        done = irc(folder, command)
        assert (done.code, done.err) == (0, "")
        lines = done.out.splitlines()
        assert names <= {line.split()[0] for line in lines}
        assert all(len(line.split()) >= 3 for line in lines), "each has its doc"
        assert len({line.split()[0] for line in lines}) == len(lines)


def test_help(folder: Path) -> None:
    done = irc(folder, "--help")
    assert done.code == 0
    for command in ("run", "dump", "opt", "check", "ops", "passes", "backends"):
        assert command in done.out
    done = irc(folder, "run", "--help")
    assert done.code == 0
    for flag in (
        "--dtype",
        "--backend",
        "--cpu",
        "--cuda",
        "--steps",
        "--stop-at",
        "--resume",
        "--guard",
        "--set",
        "--json",
        "--debug",
    ):
        assert flag in done.out
    assert irc(folder).code == 2, "no command is wrong usage"


def test_data_files_beside_the_model_file(folder: Path) -> None:
    below = folder / "below"
    below.mkdir()
    np.savez(below / "d.npz", x=np.ones((4, 2)), y=np.ones((4, 1)))
    (below / "layers.py").write_text("from tapeir import nn\nlayer = nn.Linear(2, 1)\n")
    (below / "main.py").write_text(
        "from pathlib import Path\nimport tapeir as tp\nfrom layers import layer\nmodel = layer\n"
        "data = tp.data.npz(Path(__file__).parent / 'd.npz', 'x', 'y')\n"
    )
    assert irc(folder, "run", "below/main.py", "--json").code == 0
