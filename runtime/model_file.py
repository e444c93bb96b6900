"""Model files: Python files whose module-level names say what to train and on what."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import SourceLoader
from pathlib import Path
from typing import Any, cast

from ..frontend.nn import Module
from ..frontend.transforms import argument_type
from ..ir import Location, TensorType
from ..ir.errors import IRError
from ..ir.lines import own
from ..ir.source import boundary
from .data import Dataset
from .trainer import Config, Data, TrainOptions

_ARGS: list[str] = []
_BESIDE: list[str] = []
"""Modules that the last model file imported from its own folder."""


def args() -> list[str]:
    """What the command line holds after ``--``: arguments of the model file itself."""
    return list(_ARGS)


class ModelFileError(IRError):
    """A model file that does not load, or lacks or misuses a name."""


@dataclass(frozen=True)
class ModelFile:
    """The names of a loaded model file; ``data`` and ``inputs`` are called when asked for."""

    path: Path
    names: dict[str, Any]

    @property
    def stem(self) -> str:
        """The file's name, which names its IR module."""
        return self.path.stem

    def value(self, name: str, default: Any = None) -> Any:
        """A module-level name: its value, or what the function of no arguments there returns."""
        found = self.names.get(name, default)
        if not callable(found) or isinstance(found, Module):
            return found
        try:
            inspect.signature(found).bind()
        except TypeError as error:
            raise ModelFileError(f"{self.path}: {name} is called without arguments: {error}") from None
        except ValueError:  # a built-in function does not tell
            pass
        return found()

    @property
    def model(self) -> Module:
        """The model; raises ``ModelFileError`` where there is none."""
        if "model" not in self.names:
            raise ModelFileError(
                f"{self.path} has no module-level name 'model'\n  remedy: model = nn.Sequential(...), or a function that returns one"
            )
        model = self.value("model")
        if not isinstance(model, Module):
            raise ModelFileError(f"{self.path}: model is {type(model).__name__}, not an nn.Module")
        return model

    def data(self) -> tuple[Dataset, Dataset | None] | None:
        """``(train, test)``, where test may be None; None where the file has no data."""
        if "data" not in self.names:
            return None
        data: Any = self.value("data")
        if isinstance(data, Dataset):
            return data, None
        kinds = [isinstance(d, Dataset) for d in data] if isinstance(data, tuple) else []  # pyright: ignore[reportUnknownVariableType]
        if kinds != [True, True]:
            raise ModelFileError(
                f"{self.path}: data is {type(data).__name__}, not a Dataset or a pair (train, test) of them"  # pyright: ignore[reportUnknownArgumentType]
            )
        return cast(tuple[Dataset, Dataset], data)

    def _typed(self, name: str, kind: type[Any]) -> Any:
        value = self.value(name)
        if value is not None and not isinstance(value, kind):
            raise ModelFileError(f"{self.path}: {name} is {type(value).__name__}, not Trainer.{kind.__name__}(...)")
        return value or kind()

    @property
    def config(self) -> Config:
        """The file's ``config``, or the defaults."""
        return self._typed("config", Config)

    @property
    def options(self) -> TrainOptions:
        """The file's ``options``, or the defaults."""
        return self._typed("options", TrainOptions)

    def batch(self, batch_size: int, data: Data | None = None) -> list[Any]:
        """One batch to learn the entries' types from: ``inputs`` (types or arrays), else the first rows of the data."""
        inputs = self.value("inputs")
        if inputs is not None:
            given = list(inputs if isinstance(inputs, Sequence) else [inputs])  # pyright: ignore[reportUnknownArgumentType]
            try:
                for x in given:
                    argument_type(x)
            except TypeError as error:
                raise ModelFileError(f"{self.path}: inputs: {error}") from None
            return given
        pair = self.data() if data is None else data
        if pair is None:
            raise ModelFileError(
                f"{self.path} has neither 'data' nor 'inputs'\n  remedy: inputs = (tp.f32[64, 10], tp.i64[64])"
            )
        dataset = pair[0] if isinstance(pair, tuple) else pair
        assert dataset is not None
        return list(dataset[:batch_size])


def batch_types(batch: Sequence[Any], dtype: Any) -> list[TensorType]:
    """The types of a batch at a runtime's boundary: floating ones in ``dtype``."""
    types = list(map(argument_type, batch))
    return [t.with_dtype(dtype) if t.dtype.floating else t for t in types]


def _is_beside(name: str, folder: Path) -> bool:
    """Whether an imported module is a file or package of a folder (and not, say, of an environment in it)."""
    place = getattr(sys.modules[name], "__file__", None)
    own = folder / name.partition(".")[0]
    return place is not None and (Path(place) == own.with_suffix(".py") or Path(place).is_relative_to(own))


def load(path: str | Path, arguments: Sequence[str] = ()) -> ModelFile:
    """Import a model file.  Raises ``ModelFileError`` when it is not Python; what its own code raises comes through."""
    file = Path(path).resolve()
    spec = importlib.util.spec_from_file_location("__tapeir_model__", file)
    if spec is None or not isinstance(spec.loader, SourceLoader):
        raise ModelFileError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    code = _compiled(file, spec.loader, spec.name)
    _ARGS[:] = arguments
    for name in _BESIDE:  # another model's files of the same names
        sys.modules.pop(name, None)
    before = set(sys.modules)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(file.parent))
    try:
        exec(code, vars(module))
    except SyntaxError as error:  # of a module that it imports
        raise _not_python(error, file) from None
    finally:
        sys.path.remove(str(file.parent))
        _BESIDE[:] = [n for n in set(sys.modules) - before if _is_beside(n, file.parent)]
    return ModelFile(file, vars(module))


def _compiled(file: Path, loader: SourceLoader, name: str) -> Any:
    """The code of a file, or of its compiled form beside it.  Raises ``ModelFileError``."""
    try:
        return loader.get_code(name)
    except SyntaxError as error:
        raise _not_python(error, file) from None
    except RecursionError:
        raise ModelFileError(f"{file} is nested too deeply to be compiled") from None
    except MemoryError:
        raise ModelFileError(f"{file} is too large or nested too deeply to be compiled") from None
    except (OSError, ValueError, EOFError, TypeError, ImportError) as error:
        raise ModelFileError(f"{file} cannot be compiled: {error}") from None


def _not_python(error: SyntaxError, file: Path) -> ModelFileError:
    own(error.filename or str(file))
    return ModelFileError(f"SyntaxError: {error.msg}", (Location(error.filename or str(file), error.lineno or 1),))


boundary(load.__code__)
