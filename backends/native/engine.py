"""LLVM text to machine code in this process: parse, the short pass pipeline, emit an object, load it.

Vectors are explicit in the text, so the vectorisers are not run; no fast-math flag and no contraction is used, hence the same bits at
every optimisation level.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import Any

from .. import cache as disk

llvm: Any = import_module("llvmlite.binding")  # it has no type stubs

VERSION = 1
"""Raised when the same text is to give other object code: a change of ``emit_object``."""


@cache
def _initialized() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


def target_machine() -> Any:
    """A new machine for this processor; an engine owns and frees the one it is given."""
    _initialized()
    target = llvm.Target.from_default_triple()
    features = llvm.get_host_cpu_features().flatten()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=2, jit=True)


def emit_object(text: str) -> bytes:
    """The object code of an LLVM module; the same bytes for the same text."""
    machine = target_machine()
    module = llvm.parse_assembly(text)
    module.triple = machine.triple
    module.data_layout = str(machine.target_data)
    module.verify()
    passes = llvm.create_new_module_pass_manager()
    passes.add_sroa_pass()
    passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    passes.add_loop_rotate_pass()
    options = llvm.create_pipeline_tuning_options(speed_level=2)
    passes.run(module, llvm.create_pass_builder(machine, options))
    return machine.emit_object(module)


class Library:
    """Loaded code.  It stays in memory as long as the object lives, and its functions must not be called after."""

    def __init__(self, code: bytes | Sequence[bytes], symbols: Mapping[str, int] | None = None) -> None:
        for name, address in (symbols or {}).items():
            llvm.add_symbol(name, address)
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target_machine())
        for part in [code] if isinstance(code, bytes) else code:
            self._engine.add_object_file(llvm.ObjectFileRef.from_data(part))
        self._engine.finalize_object()

    def address(self, name: str) -> int:
        """Where a function begins; raises ``KeyError`` for an unknown one."""
        found = self._engine.get_function_address(name)
        if not found:
            raise KeyError(name)
        return found


def processor() -> str:
    """The processor that code is made for, and by which LLVM."""
    _initialized()
    return f"{llvm.get_host_cpu_name()}, LLVM {'.'.join(str(n) for n in llvm.llvm_version_info)}"


@cache
def target_description() -> str:
    """What object code depends on besides its text: triple, processor and features, LLVM, ``VERSION``."""
    _initialized()
    version = ".".join(str(n) for n in llvm.llvm_version_info)
    features = llvm.get_host_cpu_features().flatten()
    return f"{llvm.get_default_triple()} {llvm.get_host_cpu_name()} {features} llvm {version} engine {VERSION}"


@cache
def has_feature(name: str) -> bool:
    """Whether the processor has a feature, by LLVM's name for it."""
    _initialized()
    return bool(llvm.get_host_cpu_features().get(name, False))


_loaded: dict[tuple[str, tuple[tuple[str, int], ...]], Library] = {}


def object_of(text: str, about: str = "") -> bytes:
    """The object code of an LLVM module, from the disk cache or emitted."""
    key = hashlib.sha256(f"{target_description()}\n{text}".encode()).hexdigest()
    code = disk.read("kernels", key)
    if code is None:
        code = emit_object(text)
        disk.write("kernels", key, code, about)
    return code


def load(text: str, symbols: Mapping[str, int] | None = None, about: str = "") -> Library:
    """The code of an LLVM module, from the disk cache or emitted; equal texts with equal symbols load once and stay loaded."""
    key = hashlib.sha256(f"{target_description()}\n{text}".encode()).hexdigest()
    memo = key, tuple(sorted((symbols or {}).items()))
    library = _loaded.get(memo)
    if library is None:
        code = object_of(text, about)
        library = _loaded.setdefault(memo, Library(code, symbols))
    return library
