"""``tapeir.optim``: optimisers.  The module is ``tapeir.frontend.optim``, under the name that users import it by."""

import sys

from .frontend import optim
from .frontend.optim import *  # noqa: F403

sys.modules[__name__] = optim
