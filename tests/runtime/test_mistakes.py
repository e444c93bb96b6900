"""What people get wrong, and what they are told: the fact and the remedy, at their own line, and no line of the library around it."""

# Parameters of a lambda cannot be annotated.
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import HEADER, fails, irc

import tapeir as tp
from tapeir import nn, ops
from tapeir.ir.source import FULL

X: Any = np.ones((5, 4))
DATA = "def data():\n    return tp.data.arrays(np.ones((8, 3)), np.ones((8, 1)))\n"
FILES = {
    "no forward": (
        "class M(nn.Module):\n    def __init__(self):\n        self.a = nn.Linear(3, 1)\nmodel = M()\n" + DATA,
        ["M has no method forward", "remedy: define forward(self, x)"],
    ),
    "a function of arguments as model": (
        "model = lambda x: x\n" + DATA, ["model is called without arguments: missing a required argument: 'x'"],
    ),
    "an objective that is no scalar": (
        "model = nn.Linear(3, 1)\nconfig = tp.Trainer.Config(objective=lambda p, t: p - t)\n" + DATA,
        [":5", "returned f32[1, 1]", "a loss is a floating scalar"],
    ),
    "a target of another shape": (
        "model = nn.Linear(3, 1)\ndef data():\n    return tp.data.arrays(np.ones((8, 3)), np.ones(8))\n",
        [":4", "f32[1, 1] and target f32[1]", "remedy: reshape the target with target.reshape(-1, 1)"],
    ),
    "a tuple for mse": (
        "class M(nn.Module):\n    def forward(self, x):\n        return x, x\nmodel = M()\n" + DATA,
        [":7", "objective mse takes one tensor, and M.forward returns a tuple", "a function as objective"],
    ),
    "numerics that are not there": (
        "model = nn.Linear(3, 1)\nconfig = tp.Trainer.Config(numerics='quick')\n" + DATA,
        [":5", "numerics='quick': it is exact or fast"],
    ),
    "a device that is not there": (
        "model = nn.Linear(3, 1)\nconfig = tp.Trainer.Config(device='gpu')\n" + DATA, [":5", "device='gpu': it is 'cpu', 'cuda'"],
    ),
    "a shape with a hole": (
        "model = nn.Linear(3, 1)\ninputs = (tp.f32[None, 3], tp.f32[4, 1])\n", [":5", "None is no size", "shapes are static"],
    ),
    "inputs that are no types": (
        "model = nn.Linear(3, 1)\ninputs = ('a', 3)\n", ["inputs: a str stands for no argument", "tp.f32[64, 10]"],
    ),
    "a size below 0": ("model = nn.Linear(3, -1)\n" + DATA, [":4", "-1 is no size"]),
    "a list for Sequential": (
        "model = nn.Sequential([nn.Linear(3, 1)])\n" + DATA, [":4", "takes modules, not a list", "Sequential(*modules)"],
    ),
    "a file of data that is not there": (
        "model = nn.Linear(3, 1)\ndef data():\n    return tp.data.csv('none.csv', target='y')\n", [":6", "cannot be read as CSV"],
    ),
    "columns of two lengths": (
        "model = nn.Linear(3, 1)\ndef data():\n    return tp.data.arrays(np.ones((8, 3)), np.ones((7, 1)))\n",
        [":6", "columns have 8 and 7 rows"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_in_a_model_file(name: str, tmp_path: Path) -> None:
    text, expected = FILES[name]
    (tmp_path / "bad.py").write_text(HEADER + text)
    command = ["dump", "bad.py", "--entry", "loss"] if "inputs" in text else ["run", "bad.py"]
    said = fails(tmp_path, *command)
    for words in expected:
        assert words in said, said


CALLS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "an argument number": (
        lambda: tp.grad(lambda x: ops.sum(x), argnums=3)(X), TypeError, "argument 3: the function is called with 1",
    ),
    "primals without a tuple": (
        lambda: tp.jvp(lambda x: x, X, X), TypeError, r"primals are a tuple, one for each argument: jvp\(f, \(x,\), \(t,\)\)",
    ),
    "a dtype for a type": (lambda: tp.trace(lambda x: x, tp.f32), TypeError, r"f32 is a dtype; .* of a number f32\[\(\)\]"),
    "a mode": (lambda: tp.trace(lambda x: x, tp.f32[3], mode="foo"), ValueError, "mode 'foo' is not known"),
    "results to write to": (
        lambda: tp.compile(ops.relu).executable(X)(X, out=[np.zeros((3, 5, 4))]), TypeError,
        r"result 0 is f64\[5, 4\], and out\[0\] is of float64 and shape \(3, 5, 4\)",
    ),
    "their number": (
        lambda: tp.compile(ops.relu).executable(X)(X, out=[]), TypeError, "has 1 results, and out has 0 arrays",
    ),
    "complex numbers": (lambda: tp.compile(ops.relu).executable(X)(X + 1j), TypeError, "not an array of complex128"),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_in_a_call(name: str) -> None:
    call, error, words = CALLS[name]
    with pytest.raises(error, match=words):
        call()


def test_a_tensor_of_a_trace_that_has_ended() -> None:
    kept: list[Any] = []

    def keep(x: Any) -> Any:
        kept.append(x)
        return x

    tp.trace(keep, tp.f32[3])
    with pytest.raises(tp.TraceError, match="its trace has ended"):
        ops.add(kept[0], 1)


class Wrong(nn.Module):
    def __init__(self) -> None:
        self.first, self.second = nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        return self.second(self.first(x))


@pytest.mark.parametrize(
    "call",
    [
        lambda: tp.Runtime(Wrong()).predict(X),
        lambda: tp.Runtime(Wrong(), backend="compiled").step(X, X),
        lambda: tp.grad(lambda x: ops.sum(x @ np.ones((3, 2))))(X),
        lambda: tp.trace(lambda x: x @ x, tp.f32[3, 4]),
        lambda: tp.compile(lambda x: x @ x)(X),
        lambda: tp.parse("module @m {\n  func @f(%x: f32[3]) -> (f32[3]) {\n    return %y\n  }\n}\n"),
    ],
)
def test_a_traceback_has_no_line_of_the_library(call: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(tp.IRError) as raised:
        call()
    files = [f.filename for f in traceback.extract_tb(raised.value.__traceback__)]
    assert {Path(f).name for f in files} == {Path(__file__).name}
    monkeypatch.setenv(FULL, "full")
    with pytest.raises(tp.IRError) as whole:
        call()
    assert len(traceback.extract_tb(whole.value.__traceback__)) > len(files)


def test_what_users_were_handling_is_kept() -> None:
    def f(x: Any) -> Any:
        try:
            return {"there": x}["missing"]
        except KeyError:
            raise tp.ShapeError("no such thing")  # noqa: B904 (what is handled is the context)

    with pytest.raises(tp.ShapeError) as raised:
        tp.trace(f, tp.f32[3, 4])
    assert isinstance(raised.value.__context__, KeyError)
    assert not raised.value.__suppress_context__


def test_numbers_in_text() -> None:
    seen: list[str] = []

    class Net(nn.Module):
        def __init__(self) -> None:
            self.layer = nn.Linear(4, 1)

        def forward(self, x: Any) -> Any:
            seen.append(f"{ops.mean(x):.2f}")
            return self.layer(x)

    rt = tp.Runtime(Net())
    loss = rt.step(X, np.ones((5, 1)))
    assert seen == ["1.00"]
    assert f"{loss:.3f}" == f"{float(loss):.3f}"


def test_what_a_model_file_prints_is_not_the_output_of_a_command(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(HEADER + "print('LOUD')\nmodel = nn.Linear(3, 1)\n" + DATA)
    for command in (["dump"], ["compare", "--json"], ["profile", "--json"]):
        done = irc(tmp_path, command[0], "m.py", *command[1:])
        assert done.code == 0
        assert done.err.count("LOUD") == 1
        assert "LOUD" not in done.out


def test_modules_are_imported_by_the_names_that_users_know() -> None:
    import tapeir.nn
    import tapeir.ops
    import tapeir.optim
    from tapeir.nn import Linear
    from tapeir.ops import relu

    assert (tapeir.nn, tapeir.ops, tapeir.optim) == (nn, ops, tp.optim)
    assert (Linear, relu) == (nn.Linear, ops.relu)
    assert (
        repr(nn.Sequential(nn.Linear(4, 3), nn.ReLU()))
        == "Sequential(0=Linear(in_features=4, out_features=3), 1=ReLU())"
    )


@pytest.mark.parametrize("name", ["", "optimizer/step", "optimizer/m/weight"])
def test_state_of_a_model_is_not_called_like_that_of_an_optimizer(name: str) -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            setattr(self, name, nn.Parameter((3,), nn.init.Constant(1.0)))

        def forward(self, x: Any) -> Any:
            return x * getattr(self, name)

    message = f"a Parameter of the model is called {name!r}\n  rule: names of state have characters that can be printed"
    with pytest.raises(tp.TraceError, match=message):
        tp.Runtime(Scale(), objective="mse")
