"""The chat page: one file, without a build step, that sends requests only to the server it came from."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

__all__ = ["page", "page_body", "page_headers"]


async def page(request: Request) -> Response:
    """`GET /`."""
    del request
    return Response(page_body(), headers=dict(page_headers()))


@cache
def page_body() -> bytes:
    return Path(__file__).with_name("index.html").read_bytes()


@cache
def page_headers() -> Mapping[str, str]:
    """The browser runs the page's own script and style, by their digests, and nothing else."""
    policy = (
        "default-src 'none'",
        f"script-src {_digest('script')}",
        f"style-src {_digest('style')}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    return {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": "; ".join(policy),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }


def _digest(tag: str) -> str:
    (text,) = re.findall(rb"<%b>(.*?)</%b>" % (tag.encode(), tag.encode()), page_body(), re.DOTALL)
    return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"
