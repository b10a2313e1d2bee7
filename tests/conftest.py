"""Tests run side by side, one a core; threads of their own would only get in each other's way."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
