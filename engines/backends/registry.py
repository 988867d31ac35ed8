"""All backends by name. None of these modules imports its runtime before a version or an engine is asked for."""

from __future__ import annotations

from collections.abc import Mapping

from engines.backend import Backend
from engines.backends.onnxruntime import ONNXRUNTIME
from engines.backends.openvino import OPENVINO, OPENVINO_BF16
from engines.tensorrt.engine_store import TENSORRT

BACKENDS: Mapping[str, Backend] = {
    backend.name: backend for backend in (ONNXRUNTIME, OPENVINO, OPENVINO_BF16, TENSORRT)
}
"""In the order in which `engines list` shows them; `auto` has an order of its own (engines/selection.py)."""
