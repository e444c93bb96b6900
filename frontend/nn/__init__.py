"""Modules: declarations of parameters and buffers with a ``forward``; they hold no arrays."""

from . import init
from .layers import (
    GELU,
    BatchNorm1d,
    Dropout,
    Embedding,
    Flatten,
    LayerNorm,
    Linear,
    ReLU,
    Sequential,
    Sigmoid,
    SiLU,
    Tanh,
)
from .losses import OBJECTIVES, Objective, objective
from .module import Buffer, Module, Parameter

__all__ = [
    "GELU",
    "OBJECTIVES",
    "BatchNorm1d",
    "Buffer",
    "Dropout",
    "Embedding",
    "Flatten",
    "LayerNorm",
    "Linear",
    "Module",
    "Objective",
    "Parameter",
    "ReLU",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Tanh",
    "init",
    "objective",
]
