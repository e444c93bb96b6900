"""``python -m tapeir`` is the ``irc`` command."""

from .cli import main

main()
