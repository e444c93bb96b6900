"""Objects whose settings are changed by methods, so that a misspelt or useless assignment is an error."""

from __future__ import annotations

from typing import Any, ClassVar


class Fixed:
    """Once ``_made`` is set, only attributes in ``SETTABLE`` and private ones can be assigned; ``REMEDY`` says what else to do."""

    SETTABLE: ClassVar[tuple[str, ...]] = ()
    REMEDY: ClassVar[str] = "keep it in a variable of your own"
    _made: bool = False

    def __setattr__(self, name: str, value: Any) -> None:
        if self._made and not name.startswith("_") and name not in self.SETTABLE:
            kind = type(self).__name__
            fact = f"{kind}.{name} cannot be assigned" if hasattr(self, name) else f"a {kind} has no attribute {name!r}"
            raise AttributeError(f"{fact}\n  remedy: {self.REMEDY}")
        object.__setattr__(self, name, value)
