"""What the ``irc`` commands do.  The command line itself (``cli.py``) only names arguments."""

from .bench import bench
from .cache import cache_clear, cache_ls, cache_why
from .debug import DebugRequest, bisect, compare, reduce
from .diff import DiffRequest, diff, view
from .dump import DumpRequest, OptRequest, check, dump, opt
from .listings import list_backends, list_ops, list_passes
from .modules import ENTRIES, STAGES
from .profile import profile
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
    "bench",
    "bisect",
    "cache_clear",
    "cache_ls",
    "cache_why",
    "check",
    "compare",
    "diff",
    "dump",
    "list_backends",
    "list_ops",
    "list_passes",
    "opt",
    "parse_settings",
    "profile",
    "reduce",
    "run",
    "view",
]
