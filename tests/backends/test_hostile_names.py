"""Nothing of a text reaches generated source unquoted: names of modules, functions, values, state and sites, and the files of places."""

from __future__ import annotations

import builtins
import json
import os
import re
import tokenize
from collections.abc import Iterator
from io import StringIO
from random import Random

import numpy as np
import pytest
from hostile import CALL, PLANTED, WORDS, text_of
from outcomes import same_bits

from tapeir.backends import get, kernels
from tapeir.backends.base import compile_module
from tapeir.backends.compiled.numpy_target import NumpyProgram
from tapeir.ir import Function, IRError, Module, parse, philox
from tapeir.ir.types import Array
from tapeir.runtime.page import view_page

from .cuda.nvrtc import compile_for, library
from .cuda.on_cpu import program_of

ORDINARY = text_of("plain")
ids = [f"{n}-{ascii(w)[1:13]}" for n, w in enumerate(WORDS)]


@pytest.fixture(autouse=True)
def planted() -> Iterator[list[int]]:
    """What hostile text appends to where it runs; it stays empty."""
    found: list[int] = []
    setattr(builtins, PLANTED, found)
    try:
        yield found
        assert found == []
    finally:
        delattr(builtins, PLANTED)


def _module(word: str) -> tuple[Module, Function, list[Array]]:
    """A module of the word, the function to run, and its arguments."""
    module = parse(text_of(word)).verify()
    x = np.linspace(-1, 1, 40, dtype=np.float32)
    return module, module[word], [x, x + 1, philox.key_of_seed(3), np.array([0, 39, 7])]


def _results(word: str, backend: str) -> tuple[Array, ...]:
    module, function, arrays = _module(word)
    return compile_module(get(backend), module, function.name, "cpu", {}).run(arrays)


def _code(source: str) -> list[str]:
    """The tokens of Python source that are no comments, the document string of the module left out."""
    found = [t.string for t in tokenize.generate_tokens(StringIO(source).readline) if t.type != tokenize.COMMENT]
    return found[1:]


def test_what_is_planted_would_be_seen(planted: list[int]) -> None:
    exec(CALL, {})
    assert planted == [1]
    planted.clear()


@pytest.mark.parametrize("word", WORDS, ids=ids)
def test_a_program_of_hostile_names_computes_and_does_nothing_else(word: str, table: str) -> None:
    expected, found = _results(word, "eager"), _results(word, "compiled")
    assert all(same_bits(a, b) for a, b in zip(expected, found, strict=True))
    module, function, arrays = _module(word)
    program = compile_module(get("compiled"), module, function.name, "cpu", {})
    assert program.source.isascii()
    steps = program.steps()
    assert steps is not None
    for value, array in zip(steps.function.arguments, arrays, strict=True):
        steps.write(value, array)
    for i in steps.function.instructions:
        steps.run(i)


@pytest.mark.parametrize("word", WORDS, ids=ids)
def test_a_numpy_program_differs_in_comments_alone(word: str) -> None:
    with kernels.using(kernels.Table()):
        programs: list[NumpyProgram] = []
        for text, name in ((text_of(word), word), (ORDINARY, "plain")):
            made = compile_module(get("compiled"), parse(text).verify(), name, "cpu", {})
            assert isinstance(made, NumpyProgram)
            programs.append(made)
    hostile, ordinary = (p.source for p in programs)
    assert len(hostile.split("\n")) == len(ordinary.split("\n"))
    # the words of a site are another number, and so are constants made of it
    assert re.sub(r"\d{6,}", "N", " ".join(_code(hostile))) == re.sub(r"\d{6,}", "N", " ".join(_code(ordinary)))


def test_native_text_does_not_depend_on_names() -> None:
    if kernels.table().name != "native":
        pytest.skip("native programs need llvmlite")
    texts = set[str]()
    for word in WORDS:
        module, function, _ = _module(word)
        source = compile_module(get("compiled"), module, function.name, "cpu", {}).source
        texts.add(re.sub(r"i64 -?\d{6,}", "i64 N", source))
    assert len(texts) == 1


def test_cuda_text_does_not_depend_on_names() -> None:
    """Neither the kernels nor how many lines the listing has."""
    texts, lines = set[str](), set[int]()
    for word in WORDS:
        module, function, _ = _module(word)
        made = program_of(module, function.name, fused=False)
        assert made.listing.isascii()
        assert all(re.fullmatch(r"[a-z_][a-z_0-9]*", name) for name in made.kernels)
        assert "\\\n" not in made.listing
        texts.add(made.source)
        lines.add(len(made.listing.splitlines()))
    assert (len(texts), len(lines)) == (1, 1)


@pytest.mark.skipif(library() is None, reason="needs the nvidia-cuda-nvrtc wheel")
@pytest.mark.parametrize("word", ["main", "int", '*/ asm("trap;"); /*', "a\\\n"])
def test_cuda_listings_compile(word: str) -> None:
    module, function, _ = _module(word)
    assert compile_for(program_of(module, function.name, fused=False).listing, "sm_90")


def test_names_that_are_keywords_of_c_are_no_kernels() -> None:
    for word in ("int", "main", "printf", "__syncthreads"):
        module, function, _ = _module(word)
        module[word + "k"].name = word
        module.functions = {f.name if f is not function else "f": f for f in module}
        for i in function.instructions:
            if "kernel" in i.attrs:
                i.attrs = {**i.attrs, "kernel": type(i.attrs["kernel"])(word)}
        function.name = "f"
        assert word not in program_of(module, "f", fused=False).kernels


def test_errors_of_hostile_text_are_our_own(table: str) -> None:
    for word in WORDS:
        module, function, arrays = _module(word)
        arrays[3] = np.array([0, 40, 7])
        program = compile_module(get("compiled"), module, function.name, "cpu", {})
        with pytest.raises(IRError) as caught:
            program.run(arrays)
        assert "40" in str(caught.value)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e]", str(caught.value))


# Many texts

TEXTS = int(os.environ.get("TAPEIR_FUZZ", "300"))


def _mixed(random: Random) -> tuple[Module, Function]:
    """The module with another word, or two of them, for every name, site, file and module path."""
    words = dict[str, str]()

    def word(found: re.Match[str]) -> str:
        made = "".join(random.choices(WORDS, k=random.choice((1, 2)))) + str(len(words))  # names differ
        return words.setdefault(found[0], json.dumps(made))

    module = parse(re.sub(r'"word\w?"', word, text_of("word"))).verify()
    return module, list(module)[1]


@pytest.mark.slow
def test_random_hostile_texts(planted: list[int]) -> None:
    """They print and read back, make pages, and run on both targets and in CUDA's writer without running anything else."""
    _, _, arrays = _module("plain")
    for case in range(TEXTS):
        module, function = _mixed(Random(case))
        assert parse(str(module)) == module
        assert "planted()</script>" not in view_page(module)
        for table in (kernels.table(), kernels.Table()):
            with kernels.using(table):
                expected, found = (
                    compile_module(get(backend), module, function.name, "cpu", {}).run(arrays)
                    for backend in ("eager", "compiled")
                )
            assert all(same_bits(a, b) for a, b in zip(expected, found, strict=True))
        assert "\\\n" not in program_of(module, function.name, fused=case % 2 == 0).listing
        assert planted == []
