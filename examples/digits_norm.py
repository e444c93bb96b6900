"""Handwritten digits with batch normalisation and dropout, so that train and eval mode compute different things.

irc run examples/digits_norm.py --backend compiled
"""

from pathlib import Path

import tapeir as tp
from tapeir import nn

HERE = Path(__file__).parent


class Net(nn.Module):
    """64 pixels to 10 classes through two normalised hidden layers."""

    def __init__(self) -> None:
        self.first = nn.Linear(64, 64)
        self.norm = nn.BatchNorm1d(64)
        self.second = nn.Linear(64, 32)
        self.norm2 = nn.LayerNorm(32)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(32, 10)

    def forward(self, x: tp.Tensor) -> tp.Tensor:
        x = tp.ops.relu(self.norm(self.first(x / 16)))
        x = tp.ops.silu(self.norm2(self.second(self.drop(x))))
        return self.head(x)


model = Net()


def data() -> tuple[tp.data.Dataset, tp.data.Dataset]:
    images, labels = tp.data.npz(HERE / "data" / "digits.npz", "images", "labels").columns
    return tp.data.arrays(images.reshape(-1, 64), labels).split(0.8, seed=0)


config = tp.Trainer.Config(objective="cross_entropy", optimizer=tp.optim.SGD(lr=0.05, momentum=0.9, nesterov=True))
options = tp.Trainer.TrainOptions(steps=500, batch_size=64, log_every=100)


def report(trained: tp.Trained) -> None:
    images, _ = data()[1][:4]
    with trained.runtime.in_mode("train"):
        noisy = trained.runtime.predict(images).argmax(1)
    print(f"eval mode {trained.predict(images).argmax(1)}, train mode {noisy}")
