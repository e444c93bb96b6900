"""Datasets in memory and the order in which their rows are met.

The order depends on the seed and the epoch alone: a stable sort of Philox words, never NumPy's generators.
"""

from __future__ import annotations

import csv as csv_format
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..frontend.arguments import checked, checked_fields
from ..frontend.convert import to_array
from ..ir import philox
from ..ir.errors import ArgumentValueError, DataError
from ..ir.float_mode import standard_mode
from ..ir.record import here
from ..ir.types import Array, DType, holds_floats
from .npz import Npz


def _wrong(message: str) -> DataError:
    """The error with the user's line."""
    return DataError(message, here())


def permutation(count: int, seed: int, site: str, epoch: int = 0) -> Array:
    """The positions ``0..count-1`` shuffled, i64: sorted by the Philox words of the seed's key at a site, folded with the epoch."""
    key = philox.fold_in(philox.fold_in(philox.key_of_seed(seed), philox.site_word(site)), epoch)
    return np.argsort(philox.words(key, count), kind="stable")


class Dataset:
    """Columns of equal length; row ``i`` is the ``i``-th element of each.  The last column is the target."""

    @checked
    def __init__(self, columns: Sequence[Any]) -> None:
        self.columns: tuple[Array, ...] = tuple(to_array(c) for c in columns)
        if not self.columns:
            raise _wrong("a dataset needs at least one column")
        for n, column in enumerate(self.columns):
            if column.ndim == 0 or not (column.dtype.kind in "iub" or holds_floats(column)):
                raise _wrong(
                    f"column {n} is {column.dtype} of shape {list(column.shape)}; columns are arrays of numbers",
                )
        lengths = {len(c) for c in self.columns}
        if len(lengths) > 1:
            raise _wrong(
                f"columns have {' and '.join(str(len(c)) for c in self.columns)} rows\n  rule: all have one length",
            )

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, rows: Any) -> tuple[Array, ...]:
        """The rows at a slice or an integer array, one array per column."""
        return tuple(c[rows] for c in self.columns)

    def take(self, rows: Any) -> Dataset:
        """The dataset of some rows."""
        return Dataset(self[rows])

    def cast(self, dtype: DType) -> Dataset:
        """Floating columns in a dtype; integers and bools stay."""
        with standard_mode():
            return Dataset([c.astype(dtype.numpy, copy=False) if holds_floats(c) else c for c in self.columns])

    @checked
    def split(self, fraction: float, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Two datasets: a ``fraction`` of the rows, chosen by the seed, and the others."""
        if not 0 <= fraction <= 1:
            raise _wrong(f"split at {fraction}\n  rule: it is a fraction between 0 and 1")
        order = permutation(len(self), seed, "split")
        cut = round(fraction * len(self))
        return self.take(order[:cut]), self.take(order[cut:])

    def __repr__(self) -> str:
        return f"Dataset({len(self)} rows of {', '.join(f'{c.dtype}{list(c.shape[1:])}' for c in self.columns)})"


@checked
def arrays(*columns: Any) -> Dataset:
    """A dataset of arrays: inputs, then the target."""
    return Dataset(columns)


@checked
def npz(path: str | os.PathLike[str], *names: str) -> Dataset:
    """The named arrays of an ``.npz`` file; others are not read.  Raises ``DataError``."""
    try:
        archive = Npz(path)
        missing = [n for n in names if n not in archive]
        columns = [archive[n] for n in names if not missing]
    except DataError as error:
        raise _wrong(error.message) from None
    if missing:
        raise _wrong(f"{path} has no array {', '.join(missing)}; it has {', '.join(archive)}")
    try:
        return Dataset(columns)
    except DataError as error:
        raise _wrong(f"{path}: {error.message}") from None


@checked
def csv(path: str | os.PathLike[str], target: str, one_hot: Sequence[str] = (), drop: Sequence[str] = ()) -> Dataset:
    """A CSV file with a header as features ``f64[N, F]`` and the column ``target`` as ``f64[N, 1]``.

    Columns in ``one_hot`` become one 0/1 column per distinct text, in sorted order; those in ``drop`` are left out; all others are
    numbers.  Raises ``DataError`` naming the file, line and column.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv_format.reader(file)
            rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, ValueError, csv_format.Error) as error:
        raise _wrong(f"{path} cannot be read as CSV: {error}") from None
    if not rows:
        raise _wrong(f"{path} is empty; the first line names the columns")
    (_, header), *body = rows
    for name in (target, *one_hot, *drop):
        if name not in header:
            raise _wrong(f"{path} has no column {name!r}; it has {', '.join(header)}")
    for line, row in body:
        if len(row) != len(header):
            raise _wrong(f"{path}:{line}: {len(row)} fields where the header has {len(header)}")

    def numbers(name: str) -> Array:
        at = header.index(name)
        values: list[float] = []
        for line, row in body:
            try:
                values.append(float(row[at]))
            except ValueError:
                raise _wrong(f"{path}:{line}: {name} is {row[at]!r}, not a number") from None
        return np.array(values, np.float64)

    features: list[Array] = []
    for name in header:
        if name == target or name in drop:
            continue
        if name in one_hot:
            texts = [row[header.index(name)] for _, row in body]
            features.extend(np.array([t == kind for t in texts], np.float64) for kind in sorted(set(texts)))
        else:
            features.append(numbers(name))
    return Dataset([np.stack(features, 1) if features else np.zeros((len(body), 0)), numbers(target)[:, None]])


@checked_fields
@dataclass(frozen=True)
class Loader:
    """Minibatches of a dataset, epoch after epoch; the last batch of an epoch may be short."""

    dataset: Dataset
    batch_size: int = 1
    shuffle: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ArgumentValueError(f"batch_size={self.batch_size}: it is at least 1")
        if not len(self.dataset):
            raise _wrong("the dataset has no rows")

    def __len__(self) -> int:
        """Batches of one epoch."""
        return -(-len(self.dataset) // self.batch_size)

    def epoch(self, number: int, first: int = 0) -> Iterator[tuple[Array, ...]]:
        """The batches of an epoch, from the ``first``."""
        order = (
            permutation(len(self.dataset), self.seed, "shuffle", number)
            if self.shuffle
            else np.arange(len(self.dataset))
        )
        for n in range(first, len(self)):
            yield self.dataset[order[n * self.batch_size : (n + 1) * self.batch_size]]

    def __iter__(self) -> Iterator[tuple[Array, ...]]:
        return self.epoch(0)

    def steps(self, start: int = 0) -> Iterator[tuple[int, tuple[Array, ...]]]:
        """``(epoch, batch)`` for update ``start`` and all that follow, without end."""
        epoch, first = divmod(start, len(self))
        while True:
            for batch in self.epoch(epoch, first):
                yield epoch, batch
            epoch, first = epoch + 1, 0
