"""Handwritten digits: a 64-32-10 network with dropout on 1437 images of 8x8 pixels, tested on 360 others.

irc run examples/digits_mlp.py --backend compiled
"""

from pathlib import Path

import numpy as np

import tapeir as tp
from tapeir import nn

HERE = Path(__file__).parent

model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 10))


def data() -> tuple[tp.data.Dataset, tp.data.Dataset]:
    archive = np.load(HERE / "data" / "digits.npz")
    images = archive["images"].reshape(-1, 64) / 16
    return tp.data.arrays(images, archive["labels"]).split(0.8, seed=0)


config = tp.Trainer.Config(objective="cross_entropy", optimizer=tp.optim.Adam(lr=3e-3))
options = tp.Trainer.TrainOptions(steps=1000, batch_size=64, log_every=200)


def report(trained: tp.Trained) -> None:
    _, test = data()
    images, labels = test[:10]
    print(f"predicted {trained.predict(images).argmax(1)}")
    print(f"labels    {labels}")
