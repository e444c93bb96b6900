"""The intermediate representation: types, ops, instructions, functions, modules, text, verification and derivatives.

Nothing here imports another folder of TapeIR.  Everything that is dumped, differentiated, optimised,
interpreted or compiled is made of the classes below.
"""

if __name__ != "tapeir.ir":
    raise ImportError("import tapeir.ir, not the bare folder 'ir': it would be a second copy of every op class")

from . import ops as _ops
from .autodiff import forward, reverse
from .build import Builder
from .diff import Diff, Difference, Side, diff
from .errors import (
    BackendError,
    CheckpointError,
    DtypeError,
    IRError,
    NonFiniteError,
    ParseError,
    ShapeError,
    TextError,
    TraceError,
    VerifyError,
)
from .files import load, save
from .graph import Function, Instruction, Location, Mark, Module, Place, Symbol, Value
from .op import OPS, Absent, Attr, Check, Op, Sample
from .parse import parse
from .print import Text, print, print_function, print_module
from .record import Frame, GraphBuilder, Recorder, current_frame, frame
from .types import DTYPES, DType, TensorType
from .verify import verify

__all__ = [
    "DTYPES",
    "OPS",
    "Absent",
    "Attr",
    "BackendError",
    "Builder",
    "Check",
    "CheckpointError",
    "DType",
    "Diff",
    "Difference",
    "DtypeError",
    "Frame",
    "Function",
    "GraphBuilder",
    "IRError",
    "Instruction",
    "Location",
    "Mark",
    "Module",
    "NonFiniteError",
    "Op",
    "ParseError",
    "Place",
    "Recorder",
    "Sample",
    "ShapeError",
    "Side",
    "Symbol",
    "TensorType",
    "Text",
    "TextError",
    "TraceError",
    "Value",
    "VerifyError",
    "current_frame",
    "diff",
    "forward",
    "frame",
    "load",
    "parse",
    "print",
    "print_function",
    "print_module",
    "reverse",
    "save",
    "verify",
]
_ = _ops  # imported for the registration of the built-in ops
