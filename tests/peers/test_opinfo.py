"""A sample of PyTorch's OpInfo: values and gradients, on the tape and compiled, in float32 and float64."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from typing import Any, cast

import numpy as np
import pytest
from outcomes import same_bits
from peers.opinfo import ABSENT, TABLE, AbsentError

import tapeir as tp
from tapeir import ops
from tapeir.ir.types import Array

pytestmark = pytest.mark.slow
SAMPLES = 4
"""How many samples of an operator, spread over its list, are run in each dtype."""
TOLERANCE = {"float64": 1e-9, "float32": 1e-4}


@functools.cache
def operators() -> dict[str, Any]:
    """PyTorch's OpInfo by name and variant."""
    found = import_module("torch.testing._internal.common_methods_invocations").op_db
    return {f"{o.name}.{o.variant_test_name}" if o.variant_test_name else o.name: o for o in found}


def mapped(tree: Any, leaf: Callable[[Any], Any]) -> Any:
    """``tree`` with ``leaf`` applied to what is neither list, tuple nor dict."""
    if isinstance(tree, dict):
        return {k: mapped(v, leaf) for k, v in cast(dict[Any, Any], tree).items()}
    if type(tree) in (list, tuple):
        return type(tree)([mapped(v, leaf) for v in tree])
    return leaf(tree)


def several(results: Any) -> list[Any]:
    return list(cast(Sequence[Any], results)) if isinstance(results, (tuple, list)) else [results]


class Case:
    """One sample: its arrays, and what PyTorch gives for them and for a random cotangent."""

    def __init__(self, name: str, sample: Any) -> None:
        self.torch: Any = import_module("torch")
        self.name, self.tensors = name, list[Any]()
        self.tree = mapped((sample.input, tuple(sample.args), dict(sample.kwargs)), self._numbered)
        results = several(self._called(operators()[name].op, self.tensors))
        random = np.random.default_rng(0)
        self.cotangents = [
            np.asarray(random.uniform(-1, 1, tuple(r.shape))).astype(str(r.dtype)[6:])
            for r in results
            if r.is_floating_point()
        ]
        self.active = [n for n, t in enumerate(self.tensors) if t.requires_grad]
        self.arrays: list[Array] = [t.detach().numpy() for t in self.tensors]
        self.wanted: list[Array] = [r.detach().numpy() for r in results]
        pairs = zip([r for r in results if r.requires_grad], self.cotangents, strict=False)
        total = sum([(r * self.torch.from_numpy(c)).sum() for r, c in pairs])
        self.differentiable = isinstance(total, self.torch.Tensor)
        if self.differentiable:
            inputs = [self.tensors[n] for n in self.active]
            found = self.torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)
            self.wanted += [g.numpy() for g in found]

    def _numbered(self, leaf: Any) -> Any:
        """A tensor as its place among the call's tensors, one of PyTorch's dtypes by its name."""
        if not isinstance(leaf, self.torch.Tensor):
            return leaf
        self.tensors.append(leaf.detach().clone().requires_grad_(leaf.requires_grad))
        return Place(len(self.tensors) - 1)

    def _called(self, function: Any, tensors: Sequence[Any]) -> Any:
        def leaf(x: Any) -> Any:
            return tensors[x.at] if isinstance(x, Place) else x

        first, args, options = mapped(self.tree, leaf)
        return function(first, *args, **options)

    def program(self, *given: Any) -> Any:
        """TapeIR's results, then gradients."""
        arrays, cotangents = list(given[: len(self.arrays)]), given[len(self.arrays) :]
        results: list[Any] = []

        def total(*active: Any) -> Any:
            for n, x in zip(self.active, active, strict=True):
                arrays[n] = x
            results[:] = several(self._called(TABLE[self.name], arrays))
            floating = [r for r in results if r.dtype.floating]
            terms = [ops.sum(r * c) for r, c in zip(floating, cotangents, strict=True)]
            return functools.reduce(ops.add, terms) if terms else None

        active = [arrays[n] for n in self.active]
        if not self.differentiable:
            total(*active)
            return tuple(results)
        gradients = tp.grad(total, tuple(range(len(active))))(*active)
        return (*results, *gradients)

    def check(self) -> None:
        """Both backends give one result, bit for bit, and PyTorch's to rounding; raises ``AbsentError`` as the table says."""
        arguments = [*self.arrays, *self.cotangents]
        tape, compiled = (several(tp.compile(self.program, backend=b)(*arguments)) for b in ("eager", "compiled"))
        for a, b in zip(tape, compiled, strict=True):
            assert same_bits(np.asarray(a), np.asarray(b)), f"the tape's {a} is not {b}"
        assert len(tape) == len(self.wanted)
        for found, wanted in zip(tape, self.wanted, strict=True):
            assert found.shape == wanted.shape
            if wanted.dtype.kind != "f":
                assert np.array_equal(found, wanted), f"{found}, not PyTorch's {wanted}"
                continue
            assert found.dtype == wanted.dtype
            limit = TOLERANCE[wanted.dtype.name]
            scale = max(1.0, float(np.abs(wanted[np.isfinite(wanted)]).max(initial=0)))
            np.testing.assert_allclose(found, wanted, rtol=limit, atol=limit * scale, equal_nan=True)


class Place:
    """The place of an argument among a call's tensors."""

    def __init__(self, at: int) -> None:
        self.at = at


def spread(samples: list[Any]) -> Iterator[Any]:
    """All samples, first some that are spread over the list."""
    step = max(len(samples) // SAMPLES, 1)
    for start in range(step):
        yield from samples[start::step]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", TABLE)
def test_opinfo(name: str, dtype: str) -> None:
    torch: Any = pytest.importorskip("torch", reason="PyTorch is not installed: pip install -e .[peers]")
    torch.manual_seed(0)
    operator = operators()[name]
    samples = list(operator.sample_inputs("cpu", getattr(torch, dtype), requires_grad=operator.supports_autograd))
    ran, absent = 0, set[str]()
    for sample in spread(samples):
        try:
            Case(name, sample).check()
        except AbsentError as reason:
            absent.add(str(reason))
            continue
        except BaseException as error:
            error.add_note(f"{name} of {sample}")
            raise
        ran += 1
        if ran == SAMPLES:
            break
    assert ran, f"no sample of {name} is within reach: {absent}"
    assert absent == ABSENT.get(name, set()), "ABSENT lists what is not run"
