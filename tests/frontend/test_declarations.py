"""What a model may hold: containers that contain themselves, and names that no file could hold."""

# Parameters of a lambda cannot be annotated.
# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false, reportUnknownMemberType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tapeir as tp
from tapeir import nn, ops


class Looped(nn.Module):
    def __init__(self) -> None:
        self.parts: list[Any] = [nn.Linear(2, 2)]
        self.parts.append(self.parts)
        self.named: dict[str, Any] = {"a": nn.Parameter((2,), 1.0)}
        self.named["self"] = self.named
        self.named["parts"] = (self.parts, self.named, self)
        self.shared = [self.named["a"]]

    def forward(self, x: Any) -> Any:
        return self.parts[0](x) * self.named["a"]


def test_containers_that_contain_themselves() -> None:
    model = Looped()
    rt = tp.Runtime(model)
    assert list(rt.params) == ["parts.0.weight", "parts.0.bias", "named.a"]
    rt.predict(np.ones((3, 2)))
    assert "Linear" in repr(model)


@pytest.mark.parametrize("name", ["a\ud800", "a\0b", "a\nb", "\x1b[31m"])
@pytest.mark.parametrize("where", ["attribute", "key"])
def test_names_that_no_file_could_hold(name: str, where: str) -> None:
    model: Any = nn.Sequential()
    if where == "attribute":
        setattr(model, name, nn.Parameter((2,)))
    else:
        model.parts = {name: nn.Linear(1, 1)}
    with pytest.raises(
        tp.TraceError, match=r"(?s)test_declarations\.py.*is called '.*rule: .*remedy: another"
    ) as caught:
        tp.Runtime(model)
    str(caught.value).encode()


def test_lists_that_contain_themselves_are_no_arguments() -> None:
    endless: list[Any] = [1.0]
    endless.append(endless)
    for call in (
        lambda: ops.sum(endless),
        lambda: ops.concat(endless),
        lambda: tp.trace(lambda x: x + endless, tp.f32[2]),
    ):
        with pytest.raises(tp.IRError, match="a list contains itself"):
            call()
