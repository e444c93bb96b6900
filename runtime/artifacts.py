"""The compiled entries of a runtime: found by entry and batch, bounded in number, and followed when attributes of modules change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from ..backends import Executable
from ..backends.base import Bound
from ..frontend.nn import Module
from ..ir import Function, TensorType
from .programs import Programs
from .recorded import Attributes, difference, note_again

EARLIER = 4
"""Programs that are kept for one entry and batch type, besides the current one, in case attributes of modules change back."""
Form = tuple[Any, ...]
"""An entry with the shapes and dtypes of a batch."""


class Key(NamedTuple):
    """What a compiled artefact depends on."""

    entry: str
    types: tuple[TensorType, ...]
    numerics: str
    guard: str | None


@dataclass(frozen=True)
class Artifact:
    """An entry compiled for one batch type."""

    key: Key
    form: Form
    function: Function
    executable: Executable
    call: Bound
    takes_key: bool
    packs: bool
    """Whether its only result is handed out in a tuple."""
    results: int
    """Bytes of its results."""
    unchanged: tuple[str, ...]
    """State that the entry does not update."""


class Artifacts:
    """The artifacts that are current, by form, and some that were recorded before an attribute of a module changed.

    Whoever changes them holds the runtime's lock.
    """

    def __init__(self, name: str) -> None:
        self.executables: dict[Key, Executable] = {}
        self._current: Programs[Form, Artifact] = Programs(name, self._drop)
        self._earlier: dict[Form, list[Artifact]] = {}
        self._attributes: Attributes | None = None
        self._changes: list[str] = []
        self._again = 0

    def _drop(self, artifact: Artifact) -> None:
        self.executables.pop(artifact.key, None)
        self._earlier.pop(artifact.form, None)

    def find(self, form: Form) -> Artifact | None:
        """The current artifact of a form."""
        found = self._current.get(form)
        if found is not None and len(self._current) > self._current.half:
            self._current.used(form)
        return found

    def keep(self, artifact: Artifact) -> Artifact:
        """Make an artifact the current one of its form."""
        self.executables[artifact.key] = artifact.executable
        return self._current.keep(artifact.form, artifact)

    def clear(self) -> None:
        """Drop all."""
        for held in (self.executables, self._current, self._earlier):
            held.clear()

    def follow(self, model: Module) -> None:
        """After an attribute of some module was assigned: if one of this model has changed, nothing is current any more."""
        changes = self._attributes.changes(model) if self._attributes is not None else []
        if changes:
            self._changes, self._attributes = changes, Attributes(model)
            for form, artifact in self._current.items():
                kept = [a for a in self._earlier.get(form, ()) if a is not artifact]
                self._earlier[form] = [artifact, *kept][:EARLIER]
            self._current.clear()

    def recorded(self, form: Form, function: Function, model: Module) -> Artifact | None:
        """The artifact that an entry just recorded has already, from before attributes changed; else None, and a line that says why."""
        self._attributes = Attributes(model)
        earlier = self._earlier.get(form, [])
        for artifact in earlier:
            if difference(artifact.function, function) is None:
                return artifact
        if earlier:
            self._again += 1
            note_again(function.name, self._changes, self._again)
        return None
