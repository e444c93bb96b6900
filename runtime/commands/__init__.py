"""What the ``irc`` commands do.  The command line itself (``cli.py``) only names arguments."""

from .debug import DebugRequest, bisect, compare, reduce
from .diff import DiffRequest, diff, view
from .dump import DumpRequest, OptRequest, check, dump, opt
from .listings import list_backends, list_ops, list_passes
from .modules import ENTRIES, STAGES
from .run import RunRequest, run
from .settings import UsageError, parse_settings

__all__ = [
    "ENTRIES",
    "STAGES",
    "DebugRequest",
    "DiffRequest",
    "DumpRequest",
    "OptRequest",
    "RunRequest",
    "UsageError",
    "bisect",
    "check",
    "compare",
    "diff",
    "dump",
    "list_backends",
    "list_ops",
    "list_passes",
    "opt",
    "parse_settings",
    "reduce",
    "run",
    "view",
]
