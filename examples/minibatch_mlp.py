"""Fuel economy of cars (Auto MPG): regression in epochs of minibatches over a CSV file.

irc run examples/minibatch_mlp.py --backend compiled
"""

from pathlib import Path

import numpy as np

import tapeir as tp
from tapeir import nn

HERE = Path(__file__).parent

model = nn.Sequential(nn.Linear(9, 32), nn.GELU(), nn.Linear(32, 32), nn.GELU(), nn.Linear(32, 1))


def data() -> tuple[tp.data.Dataset, ...]:
    cars = tp.data.csv(HERE / "data" / "auto_mpg.csv", target="mpg", one_hot=["origin"])
    train, test = cars.split(0.8, seed=0)
    x, y = train.columns
    return tuple(
        tp.data.arrays((features - x.mean(0)) / x.std(0), (mpg - y.mean()) / y.std())
        for features, mpg in (train.columns, test.columns)
    )


config = tp.Trainer.Config(objective="mse", optimizer=tp.optim.AdamW(lr=3e-3, weight_decay=0.01))
options = tp.Trainer.TrainOptions(epochs=40, batch_size=32, log_every=100)


def report(trained: tp.Trained) -> None:
    _, test = data()
    features, target = test[:5]
    print(f"predicted {np.round(trained.predict(features)[:, 0], 2)} (standard deviations from the mean)")
    print(f"measured  {np.round(target[:, 0], 2)}")
