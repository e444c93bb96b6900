"""Compiled equals eager, bit for bit, on every example: losses, gradients, state, masks, entries and IR text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from outcomes import same_bits

import tapeir as tp
from tapeir.runtime.data import Loader
from tapeir.runtime.model_file import ModelFile, load

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.py"))
STEPS = 15


def same(a: Any, b: Any) -> bool:
    """Equal shapes, dtypes and bytes; all NaNs count as one."""
    return same_bits(np.asarray(a), np.asarray(b))


def assert_same_states(a: tp.Runtime, b: tp.Runtime) -> None:
    for view in ("params", "buffers", "optimizer_state"):
        left, right = getattr(a, view), getattr(b, view)
        assert list(left) == list(right)
        different = [n for n in left if not same(left[n], right[n])]
        assert not different, f"{view} differ: {different}"
    assert a.step_count == b.step_count


def runtime(file: ModelFile, backend: str, dtype: str, **options: Any) -> tp.Runtime:
    """A runtime as the model file's config makes it."""
    c = file.config
    return tp.Runtime(
        file.model,
        objective=c.objective,
        optimizer=c.optimizer,
        dtype=dtype,
        backend=backend,
        seed=c.seed,
        name=file.stem,
        **options,
    )


@pytest.fixture(params=EXAMPLES, ids=lambda p: p.stem)
def file(request: pytest.FixtureRequest) -> ModelFile:
    return load(request.param)


@pytest.fixture(params=["float", "float32"])
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=["float16", "bfloat16"])
def narrow(request: pytest.FixtureRequest) -> str:
    return request.param


def batches(file: ModelFile, count: int | None = None) -> Iterator[tuple[Any, ...]]:
    """The first batches of the example's training run."""
    data = file.data()
    assert data is not None
    loader = Loader(data[0], file.options.batch_size, file.options.shuffle, file.config.seed)
    for _, (_, batch) in zip(range(count or len(loader)), loader.steps(), strict=False):
        yield batch


def short_batch(file: ModelFile) -> tuple[Any, ...]:
    """The last batch of an epoch, which is smaller than the others."""
    *_, last = batches(file)
    rows = len(last[0])
    return last if rows < file.options.batch_size else tuple(c[: rows - 3] for c in last)


def test_there_are_examples() -> None:
    assert {"digits_mlp", "digits_norm", "minibatch_mlp", "simple_mlp"} <= {p.stem for p in EXAMPLES}


def test_training(file: ModelFile, dtype: str) -> None:
    eager, compiled = (runtime(file, b, dtype) for b in ("eager", "compiled"))
    assert_same_states(eager, compiled)
    for n, batch in enumerate(batches(file, STEPS)):
        losses = [rt.step(*batch) for rt in (eager, compiled)]
        assert same(*losses), f"step {n + 1}: {losses}"
    assert_same_states(eager, compiled)
    assert eager.step_count == STEPS
    batch = next(iter(batches(file)))
    (loss, grads), (loss2, grads2) = (rt.loss_and_grads(*batch) for rt in (eager, compiled))
    assert loss == loss2
    assert list(grads) == list(grads2) == list(eager.params)
    assert not [n for n in grads if not same(grads[n], grads2[n])]


def test_training_in_16_bits(file: ModelFile, narrow: str, table: str) -> None:
    eager, compiled = (runtime(file, b, narrow) for b in ("eager", "compiled"))
    assert_same_states(eager, compiled)
    for n, batch in enumerate(batches(file, 5)):
        losses = [rt.step(*batch) for rt in (eager, compiled)]
        assert same(*losses), f"step {n + 1}: {losses}"
    assert_same_states(eager, compiled)
    batch = next(iter(batches(file)))
    assert same(eager.predict(*batch[:-1]), compiled.predict(*batch[:-1]))
    (_, grads), (_, grads2) = (rt.loss_and_grads(*batch) for rt in (eager, compiled))
    assert all(same(grads[n], grads2[n]) for n in grads)


def test_a_short_last_batch(file: ModelFile, dtype: str) -> None:
    eager, compiled = (runtime(file, b, dtype) for b in ("eager", "compiled"))
    short, full = short_batch(file), next(iter(batches(file)))
    assert len(short[0]) < len(full[0])
    for batch in (full, short, short, full, tuple(c[:2] for c in full)):
        assert same(eager.step(*batch), compiled.step(*batch))
    assert_same_states(eager, compiled)
    assert len([k for k in compiled.artifacts if k.entry == "train_step"]) == 3


def test_every_entry_in_every_mode(file: ModelFile, dtype: str) -> None:
    eager, compiled = (runtime(file, b, dtype) for b in ("eager", "compiled"))
    full, short = next(iter(batches(file))), short_batch(file)
    for _ in range(2):
        for mode in ("train", "eval"):
            for batch in (full, short):
                with eager.in_mode(mode), compiled.in_mode(mode):
                    # In train mode the predictions are equal only where the dropout masks are.
                    assert same(eager.predict(*batch[:-1]), compiled.predict(*batch[:-1]))
                    assert eager.loss(*batch) == compiled.loss(*batch)
                    (loss, grads), (loss2, grads2) = (rt.loss_and_grads(*batch) for rt in (eager, compiled))
                    assert loss == loss2
                    assert all(same(grads[n], grads2[n]) for n in grads)
        assert same(eager.step(*full), compiled.step(*full))
    assert_same_states(eager, compiled)


def test_the_tape_reads_back_as_the_traced_ir(file: ModelFile, dtype: str) -> None:
    rt = runtime(file, "eager", dtype)
    batch = next(iter(batches(file)))
    module = rt.module(*batch)
    assert list(module.functions) == ["forward_train", "forward_eval", "loss_train", "loss_eval", "train_step"]
    module.verify()
    assert tp.parse(str(module)) == module

    def check(name: str) -> None:
        assert rt.tape is not None
        taped = tp.Module(rt.name, [rt.tape.to_ir()])
        traced = tp.Module(rt.name, [module.functions[name]])
        assert str(taped) == str(traced)
        assert taped == traced
        assert not rt.tape.data_dependent

    for mode in ("train", "eval"):
        with rt.in_mode(mode):
            rt.predict(*batch[:-1])
            check(f"forward_{mode}")
            rt.loss(*batch)
            check(f"loss_{mode}")
    for _ in range(2):
        rt.step(*batch)
        check("train_step")


def test_guarded_training_is_the_same(file: ModelFile) -> None:
    plain = runtime(file, "compiled", "float32")
    guarded = [runtime(file, b, "float32", guard="nonfinite") for b in ("eager", "compiled")]
    for batch in batches(file, 3):
        loss = plain.step(*batch)
        assert all(same(rt.step(*batch), loss) for rt in guarded)
    for rt in guarded:
        assert_same_states(rt, plain)


@pytest.mark.parametrize(
    "optimizer",
    [
        tp.optim.SGD(0.1),
        tp.optim.SGD(0.1, momentum=0.9, weight_decay=0.01),
        tp.optim.SGD(0.1, momentum=0.9, nesterov=True),
        tp.optim.Adam(0.01, weight_decay=0.1),
        tp.optim.AdamW(0.01, betas=(0.8, 0.9), eps=1e-4, weight_decay=0.1),
    ],
    ids=str,
)
def test_every_optimizer(optimizer: tp.optim.Optimizer, dtype: str) -> None:
    file = load(next(p for p in EXAMPLES if p.stem == "simple_mlp"))
    eager, compiled = (
        tp.Runtime(file.model, optimizer=optimizer, dtype=dtype, backend=b) for b in ("eager", "compiled")
    )
    for batch in batches(file, 10):
        assert same(eager.step(*batch), compiled.step(*batch))
    assert_same_states(eager, compiled)


def test_nonfinite_data_gives_the_same_state(dtype: str) -> None:
    file = load(next(p for p in EXAMPLES if p.stem == "simple_mlp"))
    eager, compiled = (runtime(file, b, dtype) for b in ("eager", "compiled"))
    for x, y in batches(file, 3):
        bad = x.copy()
        bad[0, 0], bad[1, 1] = np.inf, np.nan
        assert same(eager.predict(bad), compiled.predict(bad))
        assert same(eager.step(bad, y), compiled.step(bad, y))
    assert_same_states(eager, compiled)
