"""PyTorch: eager or ``torch.compile`` of model and loss; Adam as it ships or its fused kernel; on CUDA batches in pinned memory."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from .workloads import (
    DEVICE,
    LEARNING_RATE,
    Cnn,
    Contender,
    Floats,
    Gpt,
    Kernel,
    KernelContender,
    Mlp,
    Training,
    Workload,
)

if DEVICE == "cpu":
    # Compiling in this process: a pool of compilers would stay beside the steps that are timed.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")
torch: Any = import_module("torch")
nn: Any = torch.nn
F: Any = nn.functional
aten: Any = torch.ops.aten
torch.backends.cudnn.allow_tf32 = False  # float32, as products are by default
torch.backends.cudnn.benchmark = True  # batches have one size


class Block(nn.Module):
    """One block of the decoder."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.heads = heads
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def attention(self, x: Any) -> Any:
        rows, length, width = x.shape
        parts: Any = self.qkv(x).split(width, dim=2)
        q, k, v = (p.view(rows, length, self.heads, width // self.heads).transpose(1, 2) for p in parts)
        y: Any = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(rows, length, width))

    def forward(self, x: Any) -> Any:
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Decoder(nn.Module):
    """The GPT of a workload."""

    def __init__(self, size: Gpt) -> None:
        super().__init__()  # pyright: ignore[reportUnknownMemberType]
        self.tokens = nn.Embedding(size.vocabulary, size.width)
        self.positions = nn.Embedding(size.length, size.width)
        self.blocks = nn.ModuleList([Block(size.width, size.heads) for _ in range(size.layers)])
        self.norm = nn.LayerNorm(size.width)
        self.head = nn.Linear(size.width, size.vocabulary)

    def forward(self, x: Any) -> Any:
        h: Any = self.tokens(x) + self.positions.weight
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))


def perceptron(size: Mlp) -> Any:
    """The MLP of a workload."""
    layers: list[Any] = []
    for fan_in, fan_out in zip(size.widths, size.widths[1:], strict=False):
        layers += [*([nn.GELU()] if layers else []), nn.Linear(fan_in, fan_out)]
    return nn.Sequential(*layers)


def images(size: Cnn) -> Any:
    """The CNN of a workload."""
    layers: list[Any] = []
    for fan_in, fan_out in zip(size.channels, size.channels[1:], strict=False):
        layers += [nn.Conv2d(fan_in, fan_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(size.features, size.classes))


class Trainer(Contender):
    """The ordinary training loop."""

    def __init__(self, size: Training, mode: str | None, fused: bool) -> None:
        """``mode`` is that of ``torch.compile``; None runs eagerly."""
        parameters, batch = size.parameters(), size.batch()
        self.started = time.perf_counter()
        model: Any
        if isinstance(size, Gpt):
            model = Decoder(size)
        else:
            assert isinstance(size, (Mlp, Cnn))
            model = perceptron(size) if isinstance(size, Mlp) else images(size)
        model.to(DEVICE)
        self.parameters: dict[str, Any] = dict(model.named_parameters())
        self.initial: dict[str, Any] = {name: torch.from_numpy(array).to(DEVICE) for name, array in parameters.items()}
        self.x, self.y = (torch.from_numpy(a) for a in batch)
        self.staged: list[Any] = [t.pin_memory() if DEVICE != "cpu" else t for t in (self.x, self.y)]

        def loss(x: Any, y: Any) -> Any:
            return F.cross_entropy(model(x).flatten(0, -2), y.flatten())

        self.loss: Callable[[Any, Any], Any] = torch.compile(loss, mode=mode) if mode else loss
        options = {"fused": True} if fused else {}
        self.optimizer: Any = torch.optim.Adam(list(self.parameters.values()), lr=LEARNING_RATE, **options)
        self.reset()

    def reset(self) -> None:
        assert self.parameters.keys() == self.initial.keys()
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.initial[name])
        for slots in self.optimizer.state.values():
            for slot in slots.values():
                slot.zero_()

    def step(self) -> float:
        self.optimizer.zero_grad()
        if DEVICE != "cpu":
            for staged, given in zip(self.staged, (self.x, self.y), strict=True):
                staged.copy_(given)
        loss = self.loss(*(t.to(DEVICE, non_blocking=True) for t in self.staged))
        loss.backward()
        self.optimizer.step()
        return loss.item()  # what torch recommends for float(loss)


def layer_norm(x: Any, weight: Any, bias: Any) -> Any:
    return F.layer_norm(x, (2048,), weight, bias)


def layer_norm_grad(x: Any, weight: Any, bias: Any, dy: Any) -> Any:
    """What autograd runs, without the graph around it."""
    y, mean, inverse = torch.native_layer_norm(x, (2048,), weight, bias, 1e-5)
    return y, *aten.native_layer_norm_backward(dy, x, (2048,), mean, inverse, weight, bias, (True, True, True))


def softmax(x: Any) -> Any:
    return torch.softmax(x, -1)


def gelu_out(x: Any, out: Any) -> None:
    aten.gelu.out(x, out=out)


def softmax_out(x: Any, out: Any) -> None:
    torch.softmax(x, -1, out=out)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "gelu": F.gelu,
    "softmax": softmax,
    "layer_norm": layer_norm,
    "layer_norm_grad": layer_norm_grad,
}
INTO: dict[str, Callable[..., Any]] = {"gelu": gelu_out, "softmax": softmax_out}
"""Those that write to given tensors without a copy."""


class Function(KernelContender):
    """A kernel: eager with ``out=`` where there is one that does not copy, or compiled with copies into the results."""

    def __init__(self, kernel: Kernel, compiled: bool) -> None:
        self.given: list[Any] = [torch.from_numpy(array) for array in kernel.arrays().values()]
        function, into = FUNCTIONS[kernel.kind], INTO.get(kernel.kind)

        def made(given: Any) -> list[Any]:
            results: Any = function(*given)
            return [*results] if isinstance(results, tuple) else [results]

        def write(given: Any, out: Any) -> None:
            for target, result in zip(out, made(given), strict=True):
                target.copy_(result)

        def replace(given: Any, out: Any) -> None:
            if into is not None:
                into(*given, *out)
            else:
                out[:] = made(given)

        self.call: Callable[[Any, Any], None] = torch.compile(write) if compiled else replace
        with torch.no_grad():
            self.out = made(self.given)

    def step(self) -> float:
        with torch.no_grad():
            self.call(self.given, self.out)
        return 0.0

    def results(self) -> Sequence[Floats]:
        return [tensor.numpy() for tensor in self.out]


class Adam(KernelContender):
    """``torch.optim.Adam`` on one parameter, or the compiled rule in place."""

    def __init__(self, kernel: Kernel, compiled: bool, fused: bool) -> None:
        initial, gradient = kernel.arrays().values()
        self.initial: Any = torch.from_numpy(initial)
        self.p: Any = nn.Parameter(self.initial.clone())
        self.p.grad = torch.from_numpy(gradient)
        self.call: Callable[[], Any]
        if compiled:
            m, v, count = torch.zeros_like(self.initial), torch.zeros_like(self.initial), torch.zeros(())
            self.slots: list[Any] = [m, v, count]

            def rule(p: Any, g: Any, m: Any, v: Any, count: Any) -> None:
                count.add_(1)
                size, root = LEARNING_RATE / (1 - 0.9**count), torch.sqrt(1 - 0.999**count)
                m.copy_(0.9 * m + 0.1 * g)
                v.copy_(0.999 * v + 0.001 * g * g)
                p.sub_(size * m / (torch.sqrt(v) / root + 1e-8))

            fast: Any = torch.compile(rule)
            self.call = lambda: fast(self.p, self.p.grad, m, v, count)
        else:
            options = {"fused": True} if fused else {}
            optimizer: Any = torch.optim.Adam([self.p], lr=LEARNING_RATE, **options)
            optimizer.step()
            slots = optimizer.state[self.p]
            self.slots = [slots["exp_avg"], slots["exp_avg_sq"], slots["step"]]
            self.call = optimizer.step
        self.reset()

    def reset(self) -> None:
        with torch.no_grad():
            self.p.copy_(self.initial)
            for slot in self.slots:
                slot.zero_()

    def step(self) -> float:
        with torch.no_grad():
            self.call()
        return 0.0

    def results(self) -> Sequence[Floats]:
        return [self.p.detach().numpy(), self.slots[0].numpy(), self.slots[1].numpy()]


def make(name: str, workload: Workload) -> Contender:
    """The contender of a name for a workload."""
    compiled, fused = "compile" in name, "fused" in name
    if isinstance(workload, Training):
        mode = "reduce-overhead" if "reduce" in name else "default" if compiled else None
        return Trainer(workload, mode, fused or (mode is not None and DEVICE != "cpu"))
    assert isinstance(workload, Kernel)
    return Adam(workload, compiled, fused) if workload.kind == "adam" else Function(workload, compiled)
