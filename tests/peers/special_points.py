"""Functions of ``tp.ops`` as PyTorch's and JAX's, and the gradients that the two give at the points of the documents' table."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from points import Row


class Torch:
    """PyTorch's functions under the names of ``tp.ops``, where its own differ in name or arguments."""

    def __init__(self) -> None:
        self.torch: Any = import_module("torch")
        self.functional: Any = import_module("torch.nn.functional")

    def names(self) -> dict[str, Any]:
        found = {n: getattr(m, n) for m in (self.functional, self.torch) for n in dir(m) if not n.startswith("_")}
        own = ("softmax", "log_softmax", "max_pool", "avg_pool", "cross_entropy", "std", "var", "layer_norm")
        renamed = {"clip": "clamp", "max": "amax", "min": "amin", "relu": "relu"}
        return {
            **found,
            **{n: getattr(self.torch, t) for n, t in renamed.items()},
            **{n: getattr(self, n) for n in own},
        }

    def softmax(self, x: Any) -> Any:
        return self.functional.softmax(x, -1)

    def log_softmax(self, x: Any) -> Any:
        return self.functional.log_softmax(x, -1)

    def max_pool(self, x: Any, size: int, **options: Any) -> Any:
        return self.functional.max_pool1d(x[None, None], size, **options)[0, 0]

    def avg_pool(self, x: Any, size: int, **options: Any) -> Any:
        return self.functional.avg_pool1d(x[None, None], size, **options)[0, 0]

    def cross_entropy(self, x: Any, target: int) -> Any:
        return self.functional.cross_entropy(x[None], self.torch.tensor([target]))

    def std(self, x: Any, correction: float = 0) -> Any:
        return self.torch.std(x, correction=correction)

    def var(self, x: Any, correction: float = 0) -> Any:
        return self.torch.var(x, correction=correction)

    def layer_norm(self, x: Any, size: int) -> Any:
        return self.functional.layer_norm(x, (size,))


class Jax:
    """JAX's functions under the names of ``tp.ops``; what JAX lacks is written as its users write it."""

    def __init__(self) -> None:
        self.jax: Any = import_module("jax")
        self.numpy: Any = import_module("jax.numpy")
        self.nn: Any = import_module("jax.nn")
        self.lax: Any = import_module("jax.lax")

    def names(self) -> dict[str, Any]:
        found = {n: getattr(m, n) for m in (self.nn, self.numpy) for n in dir(m) if not n.startswith("_")}
        own = ("max_pool", "avg_pool", "gelu", "cross_entropy", "layer_norm", "std", "var")
        lax = {n: getattr(self.lax, n) for n in ("rsqrt", "erf")}
        return {**found, **lax, "softmax": self.nn.softmax, **{n: getattr(self, n) for n in own}}

    def _windows(self, x: Any, start: float, combine: Any, size: int, stride: int | None, padding: int) -> Any:
        return self.lax.reduce_window(x, start, combine, (size,), (stride or size,), [(padding, padding)])

    def max_pool(self, x: Any, size: int, stride: int | None = None, padding: int = 0) -> Any:
        return self._windows(x, -self.numpy.inf, self.lax.max, size, stride, padding)

    def avg_pool(self, x: Any, size: int, stride: int | None = None, padding: int = 0) -> Any:
        return self._windows(x, 0.0, self.lax.add, size, stride, padding) / size

    def gelu(self, x: Any, approximate: str = "none") -> Any:
        return self.nn.gelu(x, approximate=approximate == "tanh")

    def cross_entropy(self, x: Any, target: int) -> Any:
        return -self.nn.log_softmax(x)[target]

    def layer_norm(self, x: Any, size: int) -> Any:
        return (x - x.mean()) / self.numpy.sqrt(x.var() + 1e-5)

    def std(self, x: Any, correction: float = 0) -> Any:
        return self.numpy.std(x, ddof=correction)

    def var(self, x: Any, correction: float = 0) -> Any:
        return self.numpy.var(x, ddof=correction)


def by_torch(row: Row) -> str:
    """PyTorch's answer."""
    peer = Torch()
    torch = peer.torch
    values = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in row.arguments.values()]
    result = row.function(peer.names())(*values)
    gradients = torch.autograd.grad(result.sum(), values, allow_unused=True)
    return row.said([torch.zeros_like(v) if g is None else g for g, v in zip(gradients, values, strict=True)])


def by_jax(row: Row) -> str:
    """JAX's answer."""
    peer = Jax()
    with peer.jax.enable_x64(True):
        values = [peer.numpy.array(v, peer.numpy.float64) for v in row.arguments.values()]
        function = row.function(peer.names())

        def total(*given: Any) -> Any:
            return function(*given).sum()

        return row.said(peer.jax.grad(total, tuple(range(len(values))))(*values))
