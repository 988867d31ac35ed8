"""Content-Digest (RFC 9530)."""

from __future__ import annotations

import base64
import binascii
import re

from onboard.api.errors import BadRequest

_MEMBER = re.compile(r"\s*([a-z0-9*_.-]+)=:([A-Za-z0-9+/=]*):\s*")


def promised_sha256(header: str | None) -> str | None:
    """The hex SHA-256 that a Content-Digest promises; None where it promises none (other algorithms are ignored).

    Raises:
        BadRequest: it is no such header, or its SHA-256 has not 32 bytes.
    """
    if header is None or not header.strip():
        return None
    sha256 = None
    for part in header.split(","):
        match = _MEMBER.fullmatch(part)
        if match is None:
            raise BadRequest(f"Content-Digest {header[:100]!r} is none; send sha-256=:BASE64: as RFC 9530 has it")
        if match[1] == "sha-256":
            sha256 = _hex(match[2])
    return sha256


def _hex(text: str) -> str:
    try:
        value = base64.b64decode(text, validate=True)
    except binascii.Error:
        value = b""
    if len(value) != 32:
        raise BadRequest("the sha-256 in Content-Digest is no base64 of 32 bytes")
    return value.hex()
