"""Handwritten digits as images: two convolutions, each pooled, and a linear layer.

irc run examples/digits_cnn.py --backend compiled
"""

from pathlib import Path

import tapeir as tp
from tapeir import nn

HERE = Path(__file__).parent

model = nn.Sequential(
    nn.Conv2d(1, 16, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Flatten(),
    nn.Linear(32 * 2 * 2, 10),
)


def data() -> tuple[tp.data.Dataset, tp.data.Dataset]:
    images, labels = tp.data.npz(HERE / "data" / "digits.npz", "images", "labels").columns
    return tp.data.arrays(images.reshape(-1, 1, 8, 8) / 16, labels).split(0.8, seed=0)


config = tp.Trainer.Config(objective="cross_entropy", optimizer=tp.optim.Adam(lr=3e-3))
options = tp.Trainer.TrainOptions(steps=400, batch_size=64, log_every=100)
