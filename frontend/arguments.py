"""What public functions take: a parameter annotated as an integer, a number, a flag, a text or a list of them takes nothing else.

The annotation is the rule and the wrapper ``checked`` keeps it, so that no function checks kinds itself.  NumPy's integers become
Python's.  Annotations that are not in ``PROMISES``, such as ``Any``, promise nothing here.
"""

from __future__ import annotations

import functools
import inspect
import operator
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar
from typing import cast as typed

import numpy as np

from ..ir.errors import ArgumentTypeError, IRError, shortened
from ..ir.source import public, wraps
from ..ir.types import bool_
from .tensor import Operators

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C", bound=type)
NUMBERS = (bool, int, float, np.bool_, np.integer, np.floating)
"""What is a number: Python's and NumPy's scalars."""
Number = float
"""The annotation of a parameter that takes bools too."""
FOREIGN: Any = object()
"""What a kind gives for an object that is not of it."""


def _is_flag(x: Any) -> bool:
    return isinstance(x, (bool, np.bool_))


def _integer(x: Any) -> Any:
    if _is_flag(x) or getattr(x, "dtype", None) in (np.bool_, bool_):
        return FOREIGN
    try:
        return operator.index(x)
    except TypeError:
        return FOREIGN


def _several(item: Callable[[Any], Any], x: Any) -> Any:
    if not isinstance(x, (list, tuple, range)) and not (isinstance(x, np.ndarray) and x.ndim == 1):
        return FOREIGN
    items = tuple([item(i) for i in typed(Sequence[Any], x)])
    return FOREIGN if any(i is FOREIGN for i in items) else items


def _number(x: Any) -> Any:
    given: Any = x
    return given if isinstance(x, NUMBERS) and not _is_flag(x) else FOREIGN


def _pair(x: Any) -> Any:
    found = _several(_number, x)
    return found if found is not FOREIGN and len(found) == 2 else FOREIGN


def _of(*classes: type) -> Callable[[Any], Any]:
    return lambda x: x if isinstance(x, classes) else FOREIGN


_integers = functools.partial(_several, _integer)


@dataclass(frozen=True)
class Promise:
    """What one alternative of an annotation takes: in words, as a conversion, and the classes that pass as they are."""

    words: str
    accept: Callable[[Any], Any]
    exact: tuple[type, ...] = ()


PROMISES: dict[str, Promise] = {
    "int": Promise("an integer", _integer, (int,)),
    "float": Promise("a number", _number, (float, int)),
    "Number": Promise("a number or a bool", _of(*NUMBERS), (float, int, bool)),
    "bool": Promise("True or False", _of(bool, np.bool_), (bool,)),
    "str": Promise("a string", _of(str), (str,)),
    "Sequence[int]": Promise("a list of integers", _integers),
    "tuple[int, ...]": Promise("a list of integers", _integers),
    "tuple[float, float]": Promise("two numbers", _pair),
    "Sequence[str]": Promise("a list of strings", functools.partial(_several, _of(str))),
    "Sequence[Any]": Promise("a list", _of(list, tuple, np.ndarray, Operators)),
    "Callable[..., Any]": Promise("a function", lambda x: x if callable(x) else FOREIGN),
    "os.PathLike[str]": Promise("a path", _of(os.PathLike)),
    "Loss": Promise("a function", lambda x: x if callable(x) else FOREIGN),
    "Init": Promise("an initialiser", lambda x: x if callable(x) else FOREIGN),
    "None": Promise("None", _of(type(None)), (type(None),)),
}
SHORT = {"Axis": "int | Sequence[int] | None", "Sizes": "int | Sequence[int]"}
"""Annotations with a name of their own."""


class Kind:
    """The alternatives of one annotation."""

    def __init__(self, alternatives: Sequence[str]) -> None:
        chosen = [PROMISES[a] for a in alternatives]
        words = [p.words for p in chosen]
        self.words = f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]
        self.accept = [p.accept for p in chosen]
        self.exact = frozenset(t for p in chosen for t in p.exact)

    def __call__(self, name: str, value: Any) -> Any:
        """The value as the function gets it.  Raises ``ArgumentTypeError`` where it is of no alternative."""
        for accept in self.accept:
            found = accept(value)
            if found is not FOREIGN:
                return found
        raise ArgumentTypeError(f"{name} = {shortened(repr(value), 80)}\n  rule: it is {self.words}")


@functools.cache
def kind_of(annotation: str) -> Kind | None:
    """What an annotation, as it is written, promises; None where that is nothing."""
    alternatives = [part for a in annotation.split(" | ") for part in SHORT.get(a, a).split(" | ")]
    return Kind(alternatives) if all(a in PROMISES for a in alternatives) else None


class Signature:
    """The parameters of a function that promise a kind."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = function.__name__
        self.kinds: list[tuple[int, str, Kind]] = []
        for position, p in enumerate(inspect.signature(function).parameters.values()):
            kind = kind_of(p.annotation) if isinstance(p.annotation, str) else None
            if kind is not None and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
                self.kinds.append((position if p.kind is p.POSITIONAL_OR_KEYWORD else sys.maxsize, p.name, kind))

    def keep(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """The positional arguments as the function gets them; those by name are changed in ``kwargs``."""
        given: list[Any] | None = None
        for position, name, kind in self.kinds:
            if position < len(args):
                if type(args[position]) not in kind.exact:
                    given = given or list(args)
                    given[position] = kind(f"{self._title(args)}: {name}", args[position])
            elif name in kwargs and type(kwargs[name]) not in kind.exact:
                kwargs[name] = kind(f"{self._title(args)}: {name}", kwargs[name])
        return args if given is None else tuple(given)

    def _title(self, args: tuple[Any, ...]) -> str:
        return type(args[0]).__name__ if self.name == "__init__" else self.name


def checked(function: Callable[P, R]) -> Callable[P, R]:
    """Make a function ``public`` and refuse arguments that its annotations do not promise."""
    signature = Signature(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        kept: Any = signature.keep(args, kwargs)
        return function(*kept, **kwargs)

    return public(wraps(call))


def checked_fields(cls: C) -> C:
    """Make a dataclass refuse fields that their annotations do not promise."""
    cls.__init__ = checked(cls.__init__)
    return cls


def called(function: Callable[..., Any], args: Sequence[Any], options: Mapping[str, Any] | None = None) -> Any:
    """What a user's function returns.  Raises ``ArgumentTypeError`` where it does not take the arguments."""
    try:
        return function(*args, **(options or {}))
    except TypeError as error:
        entered = error.__traceback__ is None or error.__traceback__.tb_next is not None
        if entered or isinstance(error, IRError):
            raise
        raise ArgumentTypeError(str(error)) from None
