"""The parser: IR text to a module.  lark reads the grammar; the transformer builds values and instructions as it goes."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.resources import files
from threading import Lock
from typing import Any, NoReturn, cast

import numpy as np
from lark import Lark, Token, Transformer, UnexpectedCharacters, UnexpectedInput
from lark.exceptions import VisitError

from .errors import ParseError
from .escape import shortened
from .float_mode import standard_mode
from .graph import PLACE_RULE, PLACES, ROLES, Function, Instruction, Location, Mark, Module, Place, Symbol, Value
from .literal import Literal, misfit
from .op import BITS, OPS, Attr, Op
from .origin import Origin, Span
from .print import SIDE, Text, attribute, side_name
from .source import public
from .types import DTYPES, Array, DType, TensorType, bf16
from .verify import POSSIBLE, is_possible


class _MistakeError(Exception):
    """A mistake found while building; carries the token it stands at."""

    def __init__(self, token: Any, message: str) -> None:
        super().__init__(message)
        self.token, self.message = token, message


def _fail(token: Any, message: str) -> NoReturn:
    raise _MistakeError(token, message)


def _offset(token: Any) -> int:
    return getattr(token, "start_pos", None) or 0


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
        self.spans: dict[Any, Span] = {}
        self.data: Mapping[str, Array] = {}
        self.missing = ""

    def begin(self, origin: Origin, data: Mapping[str, Array], missing: str) -> None:
        """Get ready for a text."""
        self.scope, self.spans, self.data, self.missing = {}, origin.spans, data, missing

    # Types and places
    def integers(self, parts: list[Token]) -> tuple[int, ...]:
        return tuple([_integer(p) for p in parts])

    def type(self, parts: list[Any]) -> tuple[TensorType, int]:
        name, shape = parts
        if name not in DTYPES:
            _fail(name, f"{name} is not an element type; one of {', '.join(DTYPES)}")
        result = TensorType(DTYPES[name], shape or ())
        if not is_possible(result):
            _fail(name, f"{result} is not a possible shape\n  rule: {POSSIBLE}")
        return result, _offset(name)

    def place(self, parts: list[Any]) -> tuple[Token, Token | None, int]:
        kind, of, offset = parts
        return kind, of, int(offset or 0)

    def typed(self, parts: list[Any]) -> tuple[TensorType, int, Any]:
        (type, at), place = parts
        return type, at, place

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
        if PLACES.get(kind) is not (of is not None):
            _fail(kind, f"a place is {PLACE_RULE}")
        value.place = Place(str(kind), offset, self.use(of) if of is not None else None)

    def argument(self, parts: list[Any]) -> tuple[Value, str | None]:
        token, (type, at), place, role = parts
        if role is not None and role not in ROLES:
            _fail(role, f"{role} is not a role; one of {', '.join(ROLES)}")
        value = Value(type)
        self.define(token, value)
        self.put(value, place)
        self.spans[value] = Span(_offset(token), (), (at,))
        return value, str(role) if role else None

    def arguments(self, parts: list[Any]) -> list[Any]:
        return parts

    def mark(self, parts: list[Token]) -> Mark:
        if parts[0] not in ("grad", "update"):
            _fail(parts[0], f"{parts[0]} is not a mark; grad or update")
        return Mark(str(parts[0]), self.use(parts[1]))

    def result(self, parts: list[Any]) -> tuple[TensorType, int, Mark | None]:
        (type, at), mark = parts
        return type, at, mark

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
        values = dict(self.given(op, attrs, typed[0][0])) if attrs else {}
        try:
            checked = op.attributes(values) if op.attrs else values
        except TypeError as error:
            _fail(op_name, str(error))
        tokens: list[Token] = operands or []
        used = tuple([self.use(t) for t in tokens])
        made = Instruction(op, used, checked, [t for t, _, _ in typed], location or ())
        for token, value, (_, _, place) in zip(names, made.results, typed, strict=True):
            self.define(token, value)
            self.put(value, place)
        self.spans[made] = Span(
            _offset(op_name), tuple([_offset(t) for t in tokens]), tuple([at for _, at, _ in typed])
        )
        return made

    def given(self, op: Op, attrs: Mapping[Token, Any], type: TensorType) -> Iterator[tuple[str, Any]]:
        """The attributes of an instruction, by the kinds that the op declares."""
        literal = next((name for name, attr in op.attrs.items() if attr.kind == "literal"), None)
        for name, value in attrs.items():
            if name == SIDE and literal is not None:
                if literal in attrs:
                    _fail(name, f"{SIDE} stands in place of {literal}")
                yield literal, self.beside(name, value, type)
            elif name not in op.attrs:
                _fail(name, f"op {op.name} has no attribute {name}; it has {', '.join(op.attrs) or 'none'}")
            else:
                yield str(name), _attribute(op.attrs[name], name, value, type)

    def beside(self, name: Token, value: Any, type: TensorType) -> Literal:
        """A constant whose elements are kept beside the text."""
        if not isinstance(value, Token) or value.type != "SYMBOL":
            _fail(name, f"{SIDE} is the name of elements kept beside the text, such as @sha256_...")
        wanted = _name(value)
        array = self.data.get(wanted)
        if array is None:
            _fail(value, f"the elements of this constant are missing: {self.missing}")
        array = np.asarray(array)
        if type.dtype is bf16 and array.dtype == np.uint16:
            array = array.view(bf16.numpy)  # as files keep it
        if array.dtype != type.dtype.numpy or array.shape != type.shape or side_name(array, type) != wanted:
            _fail(
                value,
                "the elements of this constant were altered: what is kept under its hash has another hash or type",
            )
        return Literal.of(array)

    def return_(self, parts: list[Any]) -> tuple[Token | None, list[Value]]:
        tokens: list[Token] = parts[0] or []
        return (tokens[0] if tokens else None), [self.use(t) for t in tokens]

    def function(self, parts: list[Any]) -> tuple[Token, Function]:
        symbol, arguments, results, attrs, *rest = parts
        token, returned = rest.pop()
        declared: list[tuple[TensorType, int, Mark | None]] = results or []
        if len(declared) != len(returned):
            _fail(token or symbol, f"{len(declared)} results are declared and {len(returned)} returned")
        for (type, _, _), value in zip(declared, returned, strict=True):
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
            [mark for _, _, mark in declared],
            {str(k): _free(k, v) for k, v in given.items()},
        )
        self.spans[made] = Span(_offset(symbol), (), tuple([at for _, at, _ in declared]))
        return symbol, made

    def module(self, parts: list[Any]) -> Module:
        module = Module(_name(parts[0]))
        for symbol, function in parts[1:]:
            if function.name in module.functions:
                _fail(symbol, f"function {symbol} appears twice")
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
        value = int(token) if token.lstrip("-").isdigit() else float(token)
    except ValueError:
        _fail(token, f"{token} is not a number")
    if isinstance(value, int) and not -(1 << BITS - 1) <= value < 1 << BITS:
        _fail(token, f"{token} is outside {BITS} bits")
    return value


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
    result = _free(name, value)
    if attr.kind == "dtype" and not isinstance(result, DType):
        _fail(name, f"{attribute(result)} is not an element type; one of {', '.join(DTYPES)}")
    return result


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
            value: float = float(text)
        except ValueError:
            _fail(token, f"{text} is not a number")
    else:
        value = _integer(token)
    if (rule := misfit(value, dtype)) is not None:
        _fail(token, f"{text} is outside {dtype}; {rule}")
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


@public
def parse(
    text: str | Text,
    data: Mapping[str, Array] | None = None,
    *,
    file: str = "<text>",
    missing: str = "they are not in data=",
) -> Module:
    """The module that IR text describes; verify it before use.

    ``data`` holds the elements of large constants by name, as ``print`` gave them; ``missing`` says of some that are not there why.
    Raises ``ParseError`` with file, line, column, a caret and the lines around.
    """
    if not isinstance(text, (str, Text)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"parse takes IR text, not {type(text).__name__}")
    source, beside = (text.text, text.data) if isinstance(text, Text) else (text, {})
    origin = Origin(source, file)
    parser, builder = _parser()
    try:
        with _LOCK, standard_mode():  # numbers are rounded to their dtypes
            builder.begin(origin, {**beside, **(data or {})}, missing)
            module = cast(Module, cast(Any, parser).parse(source))
    except UnexpectedInput as error:
        raise _unexpected(error, origin) from None
    except (VisitError, _MistakeError) as error:
        bad = error.orig_exc if isinstance(error, VisitError) else error
        if not isinstance(bad, _MistakeError):
            raise bad from None
        raise ParseError(shortened(bad.message), origin=origin, offset=_offset(bad.token)) from None
    module.origin = origin
    return module


def _unexpected(error: UnexpectedInput, origin: Origin) -> ParseError:
    """What stands where something else belongs."""
    expected = getattr(error, "expected", None) or getattr(error, "allowed", None) or ()
    wanted = sorted(_KINDS.get(t, t.lower()) for t in expected)
    token = getattr(error, "token", None)
    offset = error.pos_in_stream if error.pos_in_stream is not None else len(origin.text)
    if isinstance(error, UnexpectedCharacters):
        found = "this character"
    elif getattr(token, "type", "") == "$END":
        found, offset = "the end of the text", _offset(token)
    else:
        found = repr(shortened(str(token), 80))
    return ParseError(f"{found} where one of these belongs: {' '.join(wanted)}", origin=origin, offset=offset)
