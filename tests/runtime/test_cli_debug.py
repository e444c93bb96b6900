"""``irc diff``, ``view``, ``compare``, ``bisect`` and ``reduce`` as users run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commandline import HEADER, IR, MODEL, fails, fill, irc

import tapeir as tp
from tapeir import ir

PLANT = '''
import sys
from tapeir.passes.rewrite import Rewrite


class ReluIsNeg(Rewrite):
    """relu(x) is -x, which is wrong."""

    def before(self, build, x):
        return build.relu(x)

    def after(self, build, x):
        return build.neg(x)


canonicalize = sys.modules["tapeir.passes.canonicalize"]
canonicalize.RULES = (*canonicalize.RULES, ReluIsNeg())
'''
RELU_LINE = MODEL.split("\n").index(next(line for line in MODEL.split("\n") if "nn.ReLU()" in line)) + 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "planted.py").write_text(MODEL + PLANT)
    return fill(tmp_path)


# diff and view


def test_diff_of_a_program_with_itself(folder: Path) -> None:
    for stage in ("traced", "optimized", "fused", "planned"):
        done = irc(folder, "diff", "m.ir", "m.ir", "--stage", stage)
        assert (done.code, done.out, done.err) == (0, "", "")
    for stage in ("traced", "grad", "fused", "tape"):
        done = irc(folder, "diff", "tiny.py", "planted.py", "--stage", stage)
        assert (done.code, done.out, done.err) == ((1, done.out, "") if stage == "fused" else (0, "", ""))


def test_diff_of_two_models(folder: Path) -> None:
    (folder / "other.py").write_text(MODEL.replace("nn.Dropout(0.2)", "nn.Dropout(0.3)"))
    done = irc(folder, "diff", "tiny.py", "other.py")
    assert (done.code, done.err) == (1, "")
    assert done.out.count("attribute: p = 0.8 -> 0.7") == 3, "forward, loss and train_step in train mode"
    assert f'tiny.py:{RELU_LINE} in "3"' in done.out
    assert f'other.py:{RELU_LINE} in "3"' in done.out
    assert done.out.splitlines()[0] == "@forward_train"
    assert irc(folder, "diff", "tiny.py", "other.py", "--mode", "eval").code == 0, "dropout is not there"
    one = irc(folder, "diff", "tiny.py", "other.py", "--entry", "loss", "--mode", "train", "--json")
    found = json.loads(one.out)
    assert found["same"] is False
    changed, scale = found["differences"]
    assert (changed["kind"], changed["what"], changed["detail"]) == ("changed", "attribute", "p = 0.8 -> 0.7")
    assert changed["a"]["function"] == "loss_train"
    assert scale["detail"] == "value = 1.25 -> 1.4285715"
    assert json.loads(irc(folder, "diff", "m.ir", "m.ir", "--json").out) == {"same": True, "differences": []}


def test_models_with_files_of_the_same_names_beside_them(folder: Path) -> None:
    for name, size in (("old", 8), ("new", 9)):
        (folder / name).mkdir()
        (folder / name / "layers.py").write_text(f"from tapeir import nn\nlayer = nn.Linear(4, {size})\n")
        text = HEADER + "from layers import layer\nmodel = layer\ninputs = (tp.f32[2, 4],)\n"
        (folder / name / "model.py").write_text(text)
    done = irc(folder, "diff", "old/model.py", "new/model.py")
    assert done.code == 1
    assert "f32[8, 4] -> f32[9, 4]" in done.out
    for name in ("old", "new"):
        (folder / name / "model.py").write_text(MODEL.replace("0.2", "0.2" if name == "old" else "0.4"))
    done = irc(folder, "diff", "old/model.py", "new/model.py", "--entry", "forward_train")
    assert f"old/model.py:{RELU_LINE}" in done.out, "places tell the two apart"
    assert f"new/model.py:{RELU_LINE}" in done.out


def test_diff_of_text_with_a_model_and_of_one_function(folder: Path) -> None:
    assert irc(folder, "dump", "tiny.py", "--entry", "loss", "-o", "loss.ir").code == 0
    for entry in (["loss", "--mode", "train"], ["loss_train"], ["@loss_train"]):
        done = irc(folder, "diff", "loss.ir", "tiny.py", "--entry", *entry)
        assert (done.code, done.out, done.err) == (0, "", "")
    text = fails(folder, "diff", "loss.ir", "tiny.py", "--entry", "forward", code=2)
    assert "--entry forward: loss.ir has no such function; it has loss_train" in " ".join(text.split())
    done = irc(folder, "diff", "loss.ir", "tiny.py")
    assert done.code == 1
    assert [line for line in done.out.splitlines() if line.startswith("  + func")]


def test_diff_errors_exit_with_2(folder: Path) -> None:
    (folder / "bad.ir").write_text(IR.replace("mul", "mull"))
    (folder / "raises.py").write_text("1 / 0\n")
    assert "there is no op mull" in fails(folder, "diff", "m.ir", "bad.ir", code=2)
    assert "ZeroDivisionError" in fails(folder, "diff", "m.ir", "raises.py", code=2)
    assert "wrong" not in fails(folder, "diff", "tiny.py", "none.py", code=2)


def test_diff_in_colour(folder: Path) -> None:
    (folder / "n.ir").write_text(IR.replace("= exp", "= sin"))
    environment = {
        "PATH": os.environ.get("PATH", ""),
        "FORCE_COLOR": "1",
        "PYTHONPATH": str(Path(tp.__file__).parents[1]),
    }
    command = [sys.executable, "-m", "tapeir", "diff", "m.ir", "n.ir"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "\x1b[" in done.stdout
    assert "exp -> sin" in done.stdout


def test_pages(folder: Path) -> None:
    (folder / "n.ir").write_text(IR.replace("= exp", "= sin"))
    done = irc(folder, "diff", "m.ir", "n.ir", "--html", "pages/d.html")
    assert (done.code, done.err) == (1, "wrote pages/d.html\n")
    assert (
        "exp -&gt; sin" in (folder / "pages/d.html").read_text()
        or "exp -> sin" in (folder / "pages/d.html").read_text()
    )
    done = irc(folder, "view", "tiny.py", "--entry", "train_step", "--stage", "fused")
    assert (done.code, done.out, done.err) == (0, "", "wrote tiny.html\n")
    assert "@k0" in (folder / "tiny.html").read_text()
    assert irc(folder, "view", "m.ir", "-o", "m.html").code == 0
    assert "cannot be written" in fails(folder, "view", "m.ir", "-o", "m.html/x.html")
    for command in (
        ["view", "m.ir", "-o", "."],
        ["diff", "m.ir", "n.ir", "--html", "."],
        ["reduce", "m.ir", "-o", "."],
    ):
        assert "is a folder" in fails(folder, *command, code=2)
    np.savez(folder / "x.npz", x=np.ones(3, np.float32))
    for command in (
        ["view", "m.ir", "-o", "m.ir"],
        ["dump", "tiny.py", "-o", "tiny.py"],
        ["run", "tiny.py", "--save", "tiny.py"],
        ["run", "tiny.py", "--log", "tiny.py"],
        ["run", "tiny.py", "--set", "checkpoint=tiny.py"],
        ["run", "m.ir", "--inputs", "x.npz", "--outputs", "x.npz"],
    ):
        assert "would replace the input" in " ".join(fails(folder, *command, code=2).split())
    assert "cannot be written: Not a directory" in fails(folder, "run", "tiny.py", "--save", "m.ir/state.safetensors")
    assert "is a model file" in fails(folder, "opt", "tiny.py", "--passes", "cse", code=2)


# compare, bisect, reduce


def test_compare_agrees(folder: Path) -> None:
    done = irc(folder, "compare", "tiny.py")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0].startswith("tiny: @train_step, compiled beside the tape, ")
    assert lines[-1] == "no kernel differs"
    assert all("same bits" in line for line in lines[2:-1])
    np.savez(folder / "x.npz", x=np.array([1.0, -2.0, np.inf]))
    assert irc(folder, "compare", "m.ir", "--inputs", "x.npz").code == 0
    assert irc(folder, "compare", "m.ir", "--seed", 3, "--backends", "eager,eager").code == 0
    found = json.loads(irc(folder, "compare", "tiny.py", "--entry", "loss", "--mode", "eval", "--json").out)
    assert (found["grade"], found["finding"]) == ("none", None)


def test_a_planted_rewrite_is_found(folder: Path) -> None:
    done = irc(folder, "compare", "planted.py", "--entry", "loss", "--mode", "train")
    assert (done.code, done.err) == (1, "")
    assert "the first kernel that differs: neg_" in done.out
    assert "made by canonicalize" in done.out
    assert f'planted.py:{RELU_LINE} in "2"' in done.out
    assert "a real difference: " in done.out
    assert "(the tape is nearer)" in done.out
    finding: dict[str, Any] = json.loads(irc(folder, "compare", "planted.py", "--json").out)["finding"]
    assert (finding["made_by"], finding["fault"], finding["nearer"]) == ("canonicalize", "pass", "tape")

    done = irc(folder, "bisect", "planted.py")
    assert (done.code, done.err) == (0, "")
    first, where, *_ = done.out.splitlines()
    assert first.startswith("pass 1, canonicalize: rewrite ")
    assert "ReluIsNeg on relu : f32[8, 8]" in first
    assert where == f'  planted.py:{RELU_LINE} in "2"'
    assert "relu -> neg" in done.out

    done = irc(folder, "reduce", "planted.py", "-o", "small.ir")
    assert done.code == 0
    module = ir.load(folder / "small.ir")
    (function,) = module
    assert [i.op.name for i in function.instructions] == ["relu"]
    assert function.instructions[0].location[0].line == RELU_LINE
    assert "wrote small.ir, and its arguments to small.npz" in done.err
    assert irc(folder, "compare", "small.ir", "--inputs", "small.npz").code == 0, (
        "the rule is not planted in that process"
    )


def test_nothing_to_find(folder: Path) -> None:
    assert "there is nothing to bisect" in fails(folder, "bisect", "tiny.py", "--entry", "forward")
    assert "there is nothing to reduce" in fails(folder, "reduce", "m.ir")
    (folder / "labels.py").write_text(MODEL.replace("np.arange(30) % 3", "np.arange(30) % 3 + 3"))
    assert "is out of range" in fails(folder, "bisect", "labels.py")
    assert "both raise OutOfRangeError" in fails(folder, "reduce", "labels.py")
    done = irc(folder, "compare", "labels.py")
    assert (done.code, done.out.splitlines()[-1]) == (0, "both raise the same error")


def test_reduce_by_a_command(folder: Path) -> None:
    (folder / "has_exp.py").write_text("import sys\nsys.exit(7 if ' exp ' in open(sys.argv[1]).read() else 0)\n")
    done = irc(folder, "reduce", "m.ir", "--test", f"{sys.executable} has_exp.py")
    assert done.code == 0
    assert "the command ends with 7; that is kept" in done.err
    assert [i.op.name for i in tp.parse(done.out)["main"].instructions] == ["exp"], "an op that nobody uses counts"
    text = IR.replace("return %2", "return %3")
    (folder / "r.ir").write_text(text)
    done = irc(folder, "reduce", "r.ir", "--test", f"{sys.executable} has_exp.py {{}}", "--entry", "@main")
    assert [i.op.name for i in tp.parse(done.out)["main"].instructions] == ["exp"]
    done = irc(folder, "reduce", "r.ir", "--test", "true")
    assert "does not tell this program from an empty one" in done.err
    (folder / "slow.py").write_text("import time\ntime.sleep(60)\n")
    done = irc(folder, "reduce", "r.ir", "--test", f"{sys.executable} slow.py", "--timeout", "0.2")
    assert "the command ends with timeout; that is kept" in done.err


def test_large_constants_go_beside_the_text(folder: Path) -> None:
    (folder / "table.py").write_text(
        HEADER + "class M(nn.Module):\n    def forward(self, x):\n        return x + np.arange(20.0)\n"
        "model = M()\ninputs = (tp.f32[2, 20],)\n"
    )
    inline = irc(folder, "dump", "table.py").out
    assert 'bytes "' in inline
    assert irc(folder, "dump", "table.py", "-o", "t.ir", "--stage", "optimized", "--after-all", "steps").code == 0
    assert "data = @sha256_" in (folder / "t.ir").read_text()
    assert (folder / "t.safetensors").exists()
    assert (
        irc(folder, "diff", "t.ir", "table.py", "--stage", "optimized", "--entry", "forward", "--mode", "train").code
        == 0
    )
    assert (folder / "steps" / "00-input.safetensors").exists()
    assert irc(folder, "opt", "t.ir", "--passes", "dce").out == tp.parse(inline).verify().__str__()
    (folder / "t.safetensors").unlink()
    text = fails(folder, "check", "t.ir")
    assert "the elements of this constant are missing: t.safetensors, where they belong, is not there" in text
    assert irc(folder, "dump", "table.py", "-o", "u.ir").code == 0
    (folder / "u.safetensors").rename(folder / "t.safetensors")
    (folder / "t.ir").write_text((folder / "t.ir").read_text().replace("@sha256_", "@sha256_0"))
    assert "t.safetensors does not hold them" in fails(folder, "check", "t.ir")
    assert "t.ir:" in text


def test_after_all_lists_every_pass(folder: Path) -> None:
    for _ in range(2):
        assert irc(folder, "opt", "m.ir", "--passes", "cse,cse,dce,fold", "--after-all", "steps").code == 0
        names = sorted(p.name for p in (folder / "steps").iterdir())
        assert names == ["00-input.ir", "01-cse.ir", "03-dce.ir", "index.txt"]
        index = (folder / "steps" / "index.txt").read_text().splitlines()
        assert index == ["00-input: 4 ops", "01-cse: 3 ops", "02-cse: unchanged", "03-dce: 2 ops", "04-fold: unchanged"]
    for name in ("mine.ir", "07-old.ir", "12-weights.safetensors"):
        (folder / "steps" / name).write_text("kept")
    assert irc(folder, "opt", "m.ir", "--passes", "dce", "--after-all", "steps").code == 0
    assert sorted(p.name for p in (folder / "steps").iterdir()) == [
        "00-input.ir", "01-dce.ir", "07-old.ir", "12-weights.safetensors", "index.txt", "mine.ir",
    ]  # fmt: skip
    (folder / "notes").mkdir()
    (folder / "notes" / "index.txt").write_text("my index\n")
    assert "was not written by an earlier dump" in fails(
        folder, "opt", "m.ir", "--passes", "dce", "--after-all", "notes"
    )
    assert (folder / "notes" / "index.txt").read_text() == "my index\n"


def test_opt_says_why(folder: Path) -> None:
    done = irc(folder, "opt", "m.ir", "--passes", "canonicalize,fold,cse,dce", "--why", "%1")
    notes = [line for line in done.err.splitlines() if line.startswith("%1: ")]
    assert "%1: MulOne: does not match (x * 1 is x.)" in notes
    assert "%1: fold: an operand is not a constant" in notes
    assert "%1: cse: applied" in notes
    done = irc(folder, "opt", "m.ir", "--passes", "cse", "--why", "1", "--fuel", 0)
    assert "%1: cse: out of fuel" in done.err
