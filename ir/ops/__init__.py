"""The built-in ops by family; importing the package registers them."""

from . import contract, control, elementwise, gather, nn, random, reduce, shape

__all__ = ["contract", "control", "elementwise", "gather", "nn", "random", "reduce", "shape"]
