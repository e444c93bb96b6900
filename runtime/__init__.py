"""What owns state and runs things: ``Runtime``, ``Trainer``, compiled functions, data, checkpoints, and the ``irc`` commands."""
