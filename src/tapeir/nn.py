"""``tapeir.nn``: layers, initialisers and losses.  The module is ``tapeir.frontend.nn``, under the name that users import it by."""

import sys

from .frontend import nn
from .frontend.nn import *  # noqa: F403

sys.modules[__name__] = nn
sys.modules[f"{__name__}.init"] = nn.init
