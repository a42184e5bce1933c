"""These tests need veRL, in an environment of its own (constraints/verl.txt)."""

from __future__ import annotations

import os

os.environ.setdefault("VERL_PLATFORM", "cpu")
