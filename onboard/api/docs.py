"""The interface's description, for programs (/openapi.json) and for people (/docs), from this machine alone."""

from __future__ import annotations

import base64
import binascii
import importlib.util
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse, Response

from onboard.api.auth import Caller
from onboard.api.errors import NotAuthenticated, NotFound, RequestRefused
from onboard.api.service import caller_with

PACKAGE = "fastapi_offline"
"""Brings Swagger UI's files; nothing else of it is used, and it is not imported."""
ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "favicon.png": "image/png",
}
# 'unsafe-inline': the page that FastAPI makes starts Swagger UI by a script of its own.
_POLICY = (
    "default-src 'none'; connect-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
"""A browser fetches nothing from elsewhere, whatever the page says."""


class BrowserMustSay(NotAuthenticated):
    """No token: a browser asks its user for one."""

    challenge = 'Bearer, Basic realm="a token as the password", charset="UTF-8"'


class MissingPages(NotFound):
    """The package with the pages is not installed."""

    def __init__(self) -> None:
        self.kind, self.name = "asset", PACKAGE
        RequestRefused.__init__(
            self, "the page needs the package fastapi-offline, which is not installed here; /openapi.json is there"
        )


def reader_of(request: Request) -> Caller:
    """The reader of the description: any caller; a browser may give the token as a password, with any name.

    Raises:
        BrowserMustSay: nobody we know.
        TooMany: too fast.
    """
    authorization = request.headers.get("authorization", "")
    scheme, _, encoded = authorization.partition(" ")
    # Browsers can ask their user for a name and a password, not for a bearer token.
    if scheme.lower() == "basic":
        authorization = f"Bearer {_password(encoded)}"
    try:
        return caller_with(request, authorization)
    except NotAuthenticated as error:
        raise BrowserMustSay(error.detail) from None


router = APIRouter(include_in_schema=False, dependencies=[Depends(reader_of)])


@router.get("/openapi.json")
def get_openapi(request: Request) -> dict[str, Any]:
    """The OpenAPI document."""
    document: dict[str, Any] = request.app.openapi()
    return document


@router.get("/docs")
def get_docs() -> HTMLResponse:
    """Swagger UI's page."""
    # Refused here, where the package is missing, rather than by a page whose scripts are not found.
    _asset("swagger-ui-bundle.js")
    page = get_swagger_ui_html(
        openapi_url="/openapi.json", title="onboard", swagger_js_url="/docs/swagger-ui-bundle.js",
        swagger_css_url="/docs/swagger-ui.css", swagger_favicon_url="/docs/favicon.png",
        swagger_ui_parameters={"validatorUrl": None},  # else the page has the document judged on the internet
    )  # fmt: skip
    page.headers["Content-Security-Policy"] = _POLICY
    return page


@router.get("/docs/{asset}")
def get_docs_asset(asset: str) -> Response:
    """A script, style or picture of the page."""
    if asset not in ASSETS:
        raise NotFound("part of the page", asset, "/docs")
    headers = {"Cache-Control": "private, max-age=86400", "X-Content-Type-Options": "nosniff"}
    return FileResponse(_asset(asset), headers=headers, media_type=ASSETS[asset])


def _asset(name: str) -> Path:
    """Where it lies.

    Raises:
        NotFound: the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec is not None else []:
        path = Path(folder) / "static" / name
        if path.is_file():
            return path
    raise MissingPages()


def _password(encoded: str) -> str:
    """Of Basic credentials (RFC 7617); empty if they are none."""
    try:
        return base64.b64decode(encoded.strip(), validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
