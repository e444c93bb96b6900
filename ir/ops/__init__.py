"""The built-in ops by family; importing the package registers them."""

from . import contract, control, elementary, elementwise, gather, nn, random, reduce, shape

__all__ = ["contract", "control", "elementary", "elementwise", "gather", "nn", "random", "reduce", "shape"]
