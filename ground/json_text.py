"""JSON of others: read such that whatever it held can be written again."""

from __future__ import annotations

import json
import math
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

_Model = TypeVar("_Model", bound=BaseModel)


def well_formed(value: Any) -> Any:
    """A value parsed of JSON, as UTF-8 and JSON can hold it: broken characters become U+FFFD, NaN and infinity None.

    JSON may spell half of a surrogate pair (RFC 8259, 8.2) and Python reads it, but no answer or file can be written
    with it.

    Raises:
        RecursionError: it is nested too deeply.
    """
    if isinstance(value, str):
        # Two halves that were spelled apart become one character here, a half by itself becomes U+FFFD.
        return value if value.isascii() else value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {well_formed(key): well_formed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [well_formed(item) for item in value]
    return value


def model_of(model: type[_Model], data: bytes) -> _Model:
    """A model of JSON text; broken characters and numbers in it cost themselves only: see :func:`well_formed`.

    Raises:
        ValueError, RecursionError: it has another form.
    """
    try:
        # The common case, and the fast one; pydantic refuses broken characters, so the way below is for damaged text.
        return model.model_validate_json(data)
    except ValidationError:
        return model.model_validate(well_formed(json.loads(data)))
