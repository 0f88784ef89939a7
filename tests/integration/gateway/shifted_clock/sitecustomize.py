"""Python imports this at its start where ``PYTHONPATH`` leads here: the wall clock then goes so many seconds fast."""

import os
import time

_true_time = time.time
_SHIFT_SECONDS = float(os.environ["SHIFT_SECONDS"])

time.time = lambda: _true_time() + _SHIFT_SECONDS
