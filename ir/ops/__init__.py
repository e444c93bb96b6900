"""The built-in ops by family; importing the package registers them."""

from . import (
    attention,
    clip,
    contract,
    control,
    convolution,
    elementary,
    elementwise,
    gather,
    nn,
    random,
    reduce,
    shape,
    windows,
)

__all__ = [
    "attention",
    "clip",
    "contract",
    "control",
    "convolution",
    "elementary",
    "elementwise",
    "gather",
    "nn",
    "random",
    "reduce",
    "shape",
    "windows",
]
