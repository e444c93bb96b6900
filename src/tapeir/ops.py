"""``tapeir.ops``: functions of tensors.  The module is ``tapeir.frontend.functional``, under the name that users import it by."""

import sys

from .frontend import functional
from .frontend.functional import *  # noqa: F403

sys.modules[__name__] = functional
