"""The unit tests do not need the extension: where it is not built, its stand-in takes its place."""

from __future__ import annotations

import importlib
import sys

try:
    importlib.import_module("servolley._core")
except ImportError:
    sys.modules["servolley._core"] = importlib.import_module("unit.fake_core")
