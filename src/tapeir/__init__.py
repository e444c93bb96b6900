"""TapeIR: an intermediate-representation compiler toolchain for neural networks.

``import tapeir as tp``: declare models with ``tp.nn``, train them with ``tp.Trainer``, look at their IR with ``tp.trace``.
"""

from . import backends, ir
from .backends.eager import Tape
from .frontend import functional as ops
from .frontend import nn, optim
from .frontend.tensor import Tensor
from .frontend.transforms import grad, hvp, jvp, stop_gradient, trace, value_and_grad, vjp
from .ir import (
    BackendError,
    CheckpointError,
    DtypeError,
    IRError,
    Module,
    NonFiniteError,
    ParseError,
    ShapeError,
    TensorType,
    TraceError,
    VerifyError,
    diff,
    parse,
)
from .ir.record import default_recorder as _default_recorder
from .ir.types import bf16, bool_, f16, f32, f64, i8, i16, i32, i64, key, u8, u16, u32, u64
from .runtime import data, debug
from .runtime.compile import compile
from .runtime.model_file import args
from .runtime.runtime import Runtime
from .runtime.trainer import Trained, Trainer

_default_recorder.append(Tape)
__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "CheckpointError",
    "DtypeError",
    "IRError",
    "Module",
    "NonFiniteError",
    "ParseError",
    "Runtime",
    "ShapeError",
    "Tape",
    "Tensor",
    "TensorType",
    "TraceError",
    "Trained",
    "Trainer",
    "VerifyError",
    "args",
    "backends",
    "bf16",
    "bool_",
    "compile",
    "data",
    "debug",
    "diff",
    "f16",
    "f32",
    "f64",
    "grad",
    "hvp",
    "i8",
    "i16",
    "i32",
    "i64",
    "ir",
    "jvp",
    "key",
    "nn",
    "ops",
    "optim",
    "parse",
    "stop_gradient",
    "trace",
    "u8",
    "u16",
    "u32",
    "u64",
    "value_and_grad",
    "vjp",
]
