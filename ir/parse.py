"""The parser: IR text to a module.  lark reads the grammar; the transformer builds values and instructions as it goes."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from threading import Lock
from typing import Any, NoReturn, cast

import numpy as np
from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedInput
from lark.exceptions import VisitError

from .errors import ParseError
from .graph import ROLES, Function, Instruction, Location, Mark, Module, Place, Symbol, Value
from .literal import Literal
from .op import OPS, Attr
from .types import DTYPES, TensorType

MAX_ELEMENTS = 1 << 40


class _MistakeError(Exception):
    """A mistake found while building; carries the token it stands at."""

    def __init__(self, token: Any, message: str) -> None:
        super().__init__(message)
        self.token, self.message = token, message


def _fail(token: Any, message: str) -> NoReturn:
    raise _MistakeError(token, message)


def _name(token: Any) -> str:
    text = str(token)[1:]
    return _string(token, text) if text.startswith('"') else text


def _value_name(token: Any) -> str | int:
    """A value's name, or its number where it has none: the two never meet."""
    text = str(token)[1:]
    return int(text) if text.isdigit() else _name(token)


def _string(token: Any, text: str) -> str:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        _fail(token, f"not a JSON string: {error.msg}")


def _integer(token: Any) -> int:
    try:
        return int(token)
    except ValueError:
        _fail(token, f"{token} is not an integer")


class _List(list[Any]):
    """A bracketed list of scalar tokens."""


class _Bytes(str):
    """Elements as base64."""


class _Builder(Transformer[Token, Module]):
    """Runs inside the LALR parser: every method gets the values of its rule's parts."""

    def __init__(self) -> None:
        super().__init__()
        self.scope: dict[str | int, Value] = {}

    # Types and places
    def integers(self, parts: list[Token]) -> tuple[int, ...]:
        return tuple([_integer(p) for p in parts])

    def type(self, parts: list[Any]) -> TensorType:
        name, shape = parts
        if name not in DTYPES:
            _fail(name, f"{name} is not an element type; one of {', '.join(DTYPES)}")
        result = TensorType(DTYPES[name], shape or ())
        if min(result.shape, default=0) < 0 or result.size > MAX_ELEMENTS:
            _fail(name, f"{result} is not a possible shape")
        return result

    def place(self, parts: list[Any]) -> tuple[Token, Token | None, int]:
        kind, of, offset = parts
        return kind, of, int(offset or 0)

    def typed(self, parts: list[Any]) -> tuple[TensorType, Any]:
        return parts[0], parts[1]

    # Attributes
    def scalar(self, parts: list[Token]) -> Token:
        return parts[0]

    def list(self, parts: list[Any]) -> _List:
        return _List([p for p in parts if p is not None])

    def bytes(self, parts: list[Token]) -> _Bytes:
        return _Bytes(_string(parts[0], str(parts[0])))

    def attribute(self, parts: list[Any]) -> tuple[Token, Any]:
        return parts[0], parts[1]

    def attributes(self, parts: list[Any]) -> dict[Token, Any]:
        result: dict[Token, Any] = {}
        for name, value in [p for p in parts if p is not None]:
            if name in result:
                _fail(name, f"attribute {name} appears twice")
            result[name] = value
        return result

    # Locations
    def spot(self, parts: list[Any]) -> Location:
        file, line, module = parts
        return Location(_string(file, str(file)), _integer(line), _string(module, str(module)) if module else "")

    def location(self, parts: list[Location]) -> tuple[Location, ...]:
        return tuple(parts)

    # Functions
    def values(self, parts: list[Token]) -> list[Token]:
        return parts

    def define(self, token: Token, value: Value) -> None:
        name = _value_name(token)
        if name in self.scope:
            _fail(token, f"{token} is defined already")
        value.name = name if isinstance(name, str) else None
        self.scope[name] = value

    def use(self, token: Token) -> Value:
        value = self.scope.get(_value_name(token))
        if value is None:
            _fail(token, f"{token} is not defined here")
        return value

    def put(self, value: Value, place: tuple[Token, Token | None, int] | None) -> None:
        if place is None:
            return
        kind, of, offset = place
        if kind not in ("arena", "alias", "state") or (of is None) != (kind == "arena"):
            _fail(kind, "a place is arena+offset, alias(%value) or state(%argument)")
        value.place = Place(str(kind), offset, self.use(of) if of is not None else None)

    def argument(self, parts: list[Any]) -> tuple[Value, str | None]:
        token, type, place, role = parts
        if role is not None and role not in ROLES:
            _fail(role, f"{role} is not a role; one of {', '.join(ROLES)}")
        value = Value(type)
        self.define(token, value)
        self.put(value, place)
        return value, str(role) if role else None

    def arguments(self, parts: list[Any]) -> list[Any]:
        return parts

    def mark(self, parts: list[Token]) -> Mark:
        if parts[0] not in ("grad", "update"):
            _fail(parts[0], f"{parts[0]} is not a mark; grad or update")
        return Mark(str(parts[0]), self.use(parts[1]))

    def result(self, parts: list[Any]) -> tuple[TensorType, Mark | None]:
        return parts[0], parts[1]

    def results(self, parts: list[Any]) -> list[Any]:
        return parts

    def instruction(self, parts: list[Any]) -> Instruction:
        names, op_name, operands, attrs = parts[:4]
        typed, location = parts[4:-1], parts[-1]
        op = OPS.get(str(op_name))
        if op is None:
            _fail(op_name, f"there is no op {op_name}; irc ops lists them")
        if len(names) != len(typed):
            _fail(names[0], f"{len(names)} results and {len(typed)} types")
        given: dict[Token, Any] = attrs or {}
        for name in given:
            if name not in op.attrs:
                _fail(name, f"op {op.name} has no attribute {name}; it has {', '.join(op.attrs) or 'none'}")
        values = {str(k): _attribute(op.attrs[k], k, v, typed[0][0]) for k, v in given.items()}
        try:
            checked = op.attributes(values) if op.attrs else values
        except TypeError as error:
            _fail(op_name, str(error))
        used = tuple([self.use(t) for t in operands or ()])
        made = Instruction(op, used, checked, [t for t, _ in typed], location or ())
        for token, value, (_, place) in zip(names, made.results, typed, strict=True):
            self.define(token, value)
            self.put(value, place)
        return made

    def return_(self, parts: list[Any]) -> tuple[Token | None, list[Value]]:
        tokens: list[Token] = parts[0] or []
        return (tokens[0] if tokens else None), [self.use(t) for t in tokens]

    def function(self, parts: list[Any]) -> tuple[Token, Function]:
        symbol, arguments, results, attrs, *rest = parts
        token, returned = rest.pop()
        declared: list[tuple[TensorType, Mark | None]] = results or []
        if len(declared) != len(returned):
            _fail(token or symbol, f"{len(declared)} results are declared and {len(returned)} returned")
        for (type, _), value in zip(declared, returned, strict=True):
            if type != value.type:
                _fail(token, f"a result is declared {type} and returned as {value.type}")
        self.scope = {}
        given: dict[Token, Any] = attrs or {}
        pairs: list[tuple[Value, str | None]] = arguments or []
        made = Function(
            _name(symbol),
            [v for v, _ in pairs],
            [role for _, role in pairs],
            rest,
            returned,
            [mark for _, mark in declared],
            {str(k): _free(k, v) for k, v in given.items()},
        )
        return symbol, made

    def module(self, parts: list[Any]) -> Module:
        module = Module(_name(parts[0]))
        for symbol, function in parts[1:]:
            if function.name in module.functions:
                _fail(symbol, f"function @{function.name} appears twice")
            module.add(function)
        return module

    def start(self, parts: list[Module]) -> Module:
        return parts[0]


def _free(token: Token, value: Any) -> Any:
    """An attribute whose kind its spelling tells: those of functions."""
    if isinstance(value, _List):
        return tuple(_free(token, v) for v in value)
    if isinstance(value, _Bytes):
        _fail(token, "bytes stand only in a constant")
    text = str(value)
    if value.type == "STRING":
        return _string(value, text)
    if value.type == "SYMBOL":
        return Symbol(_name(value))
    if text in ("true", "false"):
        return text == "true"
    if text in DTYPES:
        return DTYPES[text]
    if value.type == "NUMBER":
        return _number(value)
    _fail(value, f"{text} is no attribute value")


def _number(token: Token) -> int | float:
    try:
        return int(token) if token.lstrip("-").isdigit() else float(token)
    except ValueError:
        _fail(token, f"{token} is not a number")


def _attribute(attr: Attr, name: Token, value: Any, type: TensorType) -> Any:
    if attr.kind == "literal":
        return _literal(name, value, type)
    if (
        attr.kind == "float"
        and isinstance(value, Token)
        and value.type in ("NUMBER", "NAME")
        and str(value) in ("inf", "nan", "-inf")
    ):
        return float(value)
    return _free(name, value)


def _element(token: Token, type: TensorType) -> Any:
    text, dtype = str(token), type.dtype
    if dtype.kind == "b":
        if text not in ("true", "false"):
            _fail(token, f"{text} is not true or false")
        return text == "true"
    if token.type != "NUMBER":
        _fail(token, f"{text} is not a number")
    if dtype.floating:
        try:
            return float(text)
        except ValueError:
            _fail(token, f"{text} is not a number")
    value = _integer(token)
    info = np.iinfo(dtype.numpy)
    if not info.min <= value <= info.max:
        _fail(token, f"{text} is outside {dtype}")
    return value


def _literal(name: Token, value: Any, type: TensorType) -> Literal:
    if type.dtype.kind == "k":
        _fail(name, "there are no constant keys")
    if isinstance(value, _Bytes):
        try:
            raw = base64.b64decode(str(value), validate=True)
        except (binascii.Error, ValueError):
            _fail(name, "the bytes are not base64")
        if len(raw) != type.nbytes:
            _fail(name, f"{type} takes {type.nbytes} bytes, not {len(raw)}")
        array = np.frombuffer(raw, type.dtype.numpy.newbyteorder("<")).astype(type.dtype.numpy).reshape(type.shape)
        if type.dtype.kind == "b":
            array = np.frombuffer(raw, np.uint8).reshape(type.shape) != 0
        return Literal.of(array, type.dtype)
    if isinstance(value, _List):
        if len(value) != type.size:
            _fail(name, f"{type} takes {type.size} elements, not {len(value)}")
        with np.errstate(over="ignore"):
            return Literal.of(np.array([_element(v, type) for v in value], type.dtype.numpy).reshape(type.shape))
    element = _element(value, type)
    dtype: Any = type.dtype.numpy
    with np.errstate(over="ignore"):
        return Literal.splat(
            np.asarray(element).astype(dtype) if type.dtype.floating else np.array(element, dtype), type
        )


@lru_cache(maxsize=1)
def _parser() -> tuple[Lark, _Builder]:
    grammar = files("tapeir.ir").joinpath("ir.lark").read_text(encoding="utf-8")
    builder = _Builder()
    return Lark(grammar, parser="lalr", lexer="contextual", transformer=builder, maybe_placeholders=True), builder


_LOCK = Lock()


_KINDS: Mapping[str, str] = {
    "VALUE": "a value (%name)",
    "SYMBOL": "a symbol (@name)",
    "NAME": "a name",
    "NUMBER": "a number",
    "STRING": "a string",
    "LBRACE": "{",
    "RBRACE": "}",
    "LPAR": "(",
    "RPAR": ")",
    "LSQB": "[",
    "RSQB": "]",
    "COMMA": ",",
    "COLON": ":",
    "EQUAL": "=",
}


def parse(text: str, *, file: str = "<text>") -> Module:
    """The module that IR text describes; verify it before use.

    Raises ``ParseError`` with file, line, column and a caret.
    """
    parser, builder = _parser()
    try:
        with _LOCK:
            builder.scope = {}
            return cast(Module, cast(Any, parser).parse(text))
    except UnexpectedInput as error:
        wanted = sorted(
            _KINDS.get(t, t.lower()) for t in getattr(error, "expected", None) or getattr(error, "allowed", None) or ()
        )
        found = (
            "this character"
            if isinstance(error, UnexpectedCharacters)
            else repr(str(getattr(error, "token", "the end")))
        )
        if getattr(getattr(error, "token", None), "type", "") == "$END":
            found = "the end of the text"
        line, column = max(error.line, 1), max(error.column, 1)
        raise ParseError(
            f"{found} where one of these belongs: {' '.join(wanted)}", file=file, line=line, column=column, source=text
        ) from None
    except (VisitError, _MistakeError) as error:
        bad = error.orig_exc if isinstance(error, VisitError) else error
        if not isinstance(bad, _MistakeError):
            raise bad from None
        line, column = getattr(bad.token, "line", 1) or 1, getattr(bad.token, "column", 1) or 1
        raise ParseError(bad.message, file=file, line=line, column=column, source=text) from None
