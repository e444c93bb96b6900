"""A small regression, wholly in memory: a 2-8-8-1 network learns y = sin(3 a) + b**2 / 2 from 256 points.

irc run examples/simple_mlp.py --backend compiled
"""

import numpy as np

import tapeir as tp
from tapeir import nn

model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))


def data() -> tuple[tp.data.Dataset, tp.data.Dataset]:
    grid = np.linspace(-1, 1, 16)
    points = np.stack(np.meshgrid(grid, grid), -1).reshape(-1, 2)
    target = np.sin(3 * points[:, :1]) + points[:, 1:] ** 2 / 2
    return tp.data.arrays(points, target).split(0.9, seed=0)


config = tp.Trainer.Config(objective="mse", optimizer=tp.optim.Adam(lr=1e-2))
options = tp.Trainer.TrainOptions(steps=1000, batch_size=32, log_every=200)


def report(trained: tp.Trained) -> None:
    points = np.array([[0.0, 0.0], [0.5, 0.5], [-0.5, 1.0]])
    trained.print_prediction("f(0, 0), f(0.5, 0.5), f(-0.5, 1)", points)
    print(f"true values: {np.round(np.sin(3 * points[:, 0]) + points[:, 1] ** 2 / 2, 4)}")
