"""What a command was given: flags checked and laid over a model file's own settings."""

from __future__ import annotations

import ast
import errno
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ...backends import base
from ...backends.cuda.devices import NAME as DEVICE_NAME
from ...ir import IRError, Module, print_module, save
from ...ir.atomic import write_atomically
from ...ir.escape import printable
from ...ir.source import boundary
from ..model_file import ModelFile, load
from ..runtime import NUMERICS, runtime_dtype
from ..trainer import Config, TrainOptions

WORDS = {"true": "True", "false": "False", "none": "None"}
"""What is said in other words than Python's."""


class UsageError(Exception):
    """A flag or argument that cannot be used; the command line turns it into exit code 2."""


def entry(function: Callable[..., Any]) -> Callable[..., Any]:
    """A command: what calls it is not user code."""
    boundary(function.__code__)
    return function


def choice(flag: str, value: Any, known: Sequence[str]) -> None:
    """Raise ``UsageError`` for a value of a flag that is none of the known ones."""
    if value is not None and value not in known:
        raise UsageError(
            f"{flag} {value}: it is {', '.join(known[:-1])} or {known[-1]}"
            if len(known) > 1
            else f"{flag} {value}: it is {known[0]}"
        )


def parse_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """``key=value`` arguments; values are Python literals, ``true``, ``false`` and ``none`` among them, or text where they are not."""
    result: dict[str, Any] = {}
    known = [f.name for f in (*fields(Config), *fields(TrainOptions))]
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise UsageError(f"--set {pair}: it is key=value")
        if name not in known:
            raise UsageError(f"--set {name}: there is no such field; one of {', '.join(known)}")
        try:
            result[name] = ast.literal_eval(WORDS.get(text, text))
        except (ValueError, SyntaxError):
            result[name] = text
    return result


def check_device(name: str) -> None:
    """Raise ``UsageError`` for what names no device."""
    if not DEVICE_NAME.fullmatch(name):
        raise UsageError(f"--device {name}: it is cpu, cuda or cuda:N")


def settings(config: Config, options: TrainOptions, flags: Mapping[str, Any]) -> tuple[Config, TrainOptions]:
    """``config`` and ``options`` with the flags that were given (not None) in place.  Raises ``UsageError``."""
    given = {k: v for k, v in flags.items() if v is not None}
    lr = given.pop("lr", None)
    choice("--backend", given.get("backend"), base.available())
    choice("--numerics", given.get("numerics"), NUMERICS)
    check_device(str(given.get("device", "cpu")))
    try:
        if "dtype" in given:
            runtime_dtype(given["dtype"])
        names = {f.name for f in fields(Config)}
        config = config.changed(**{k: v for k, v in given.items() if k in names})
        options = replace(options, **{k: v for k, v in given.items() if k not in names})
        if lr is not None:
            config = config.changed(optimizer=config.optimizer.with_lr(lr))
    except (ValueError, TypeError) as error:
        raise UsageError(str(error)) from None
    return config, options


def open_model(path: Path, arguments: Sequence[str]) -> ModelFile:
    """The model file at a path.  Raises ``UsageError`` where it is not there or not Python."""
    if not path.is_file():
        raise UsageError(f"{path} is not a file")
    if path.suffix != ".py":
        raise UsageError(f"{path} is not a model file; it ends in .py")
    return load(path, arguments)


def check_output(output: Path | None, *inputs: Path | None) -> None:
    """Before any work is done, raise ``UsageError`` for an output that is a folder or one of the inputs, ``IRError`` where nothing can be
    written.
    """
    if output is None:
        return
    try:
        _check_output(output, inputs)
    except OSError as error:
        raise IRError(f"{output} cannot be written: {error.strerror}") from None


def _check_output(output: Path, inputs: Sequence[Path | None]) -> None:
    if not output.name or output.is_dir():
        raise UsageError(f"{output} is a folder; the output is a file")
    if any(path is not None and output.exists() and path.exists() and output.samefile(path) for path in inputs):
        raise UsageError(f"{output} would replace the input; choose another name")
    # Files are replaced whole, so their folder counts; folders that are missing are made.
    path = output.absolute()
    kept = path.exists() and not path.is_file()
    written = path if kept else next(p for p in path.parents if p.exists())
    if not kept and not written.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
    if not os.access(written, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def write_text(text: str, output: Path | None) -> None:
    """Text to a file, or to standard output.  Raises ``IRError`` where the file cannot be written."""
    if output is None:
        sys.stdout.write(text)
        return
    try:
        write_atomically(output, text.encode())
    except OSError as error:
        raise IRError(f"{output} cannot be written: {error.strerror}") from None


def write_module(module: Module, output: Path | None, *, locations: bool = False, base: str | None = None) -> None:
    """IR to a file, its large constants beside it, or whole to standard output."""
    if output is None:
        sys.stdout.write(print_module(module, locations=locations, base=base))
    else:
        save(module, output, locations=locations, base=base)


def note(line: str) -> None:
    """A line for the person at the terminal, on standard error."""
    print(printable(line), file=sys.stderr)


def show(text: str, *, end: str = "\n", flush: bool = False) -> None:
    """Text on standard output, in which no name can do anything to a terminal."""
    print(printable(text), end=end, flush=flush)
