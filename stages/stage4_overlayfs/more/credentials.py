"""Who we are to a registry: what `docker login` wrote down, and what is got for it.

A registry that wants to know answers 401, and says how: `Basic` is name and password themselves;
`Bearer` is a token, which another server gives for them, or to anybody. See RFC 9110, section 11,
RFC 7617, and "Token Authentication" in the documentation of Docker's registry.
"""

from __future__ import annotations

import base64
import json
import os
import re

from stages.stage4_overlayfs.more.names import shown
from stages.stage4_overlayfs.more.references import HUB, HUB_SERVER

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MOST_CONFIG = 1 << 20
"""Bytes of Docker's config.json that are read: it has a line or two for each registry."""
PARAMETER = re.compile(r'([A-Za-z_]+)="([^"]*)"')
TOKEN = re.compile(r"[!-~]{1,65536}")
"""What a token may be made of: with a blank or a new line in it, it would be a header more."""


def config_file() -> str:
    """Return where Docker keeps credentials, which `docker login` and `skopeo login` can write."""
    folder = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    return f"{folder}/config.json"


def basic(host: str) -> str:
    """Return the value of Authorization for a registry, from config.json; "" where it has none.

    Raises ValueError where the file, or what it has of the registry, can't be read.
    """
    what = config_file()
    try:
        with open(what, "rb") as file:
            table = json.loads(file.read(MOST_CONFIG))
    except FileNotFoundError:
        return ""
    except ValueError as error:
        raise unreadable(what, f"not JSON, {error}") from None
    rows = table.get("auths") if isinstance(table, dict) else None
    if not isinstance(rows, dict):
        rows = {}
    own = {HUB, HUB_SERVER, f"index.{HUB}"} if host == HUB else {host}
    for key, row in rows.items():
        # Docker's own registry has a whole address here, for historical reasons.
        if key.partition("://")[2].partition("/")[0] in own or key in own:
            return authorization(what, host, row)
    return ""


def authorization(what: str, host: str, row: Any) -> str:
    """Return what one registry's row gives: `auth` is name:password in base64, or they are two."""
    row = row if isinstance(row, dict) else {}
    if auth := row.get("auth"):
        try:
            pair = base64.b64decode(auth, validate=True)
        except (ValueError, TypeError):
            raise unreadable(what, f"auth of {shown(host)} is not base64") from None
    else:
        pair = f"{row.get('username') or ''}:{row.get('password') or ''}".encode()
    # An empty row is what is left when a credential helper keeps the password.
    return f"Basic {base64.b64encode(pair).decode()}" if pair != b":" else ""


def unreadable(what: str, why: str) -> ValueError:
    """Return the error for a config.json that can't be read."""
    return ValueError(f"{shown(what)}: {why}: log in again, or mend it")


def challenge(header: str) -> tuple[str, dict[str, str]]:
    """Return what WWW-Authenticate wants: "basic", "bearer" or "", and its parameters."""
    scheme, _, rest = header.strip().partition(" ")
    if scheme.lower() not in ("basic", "bearer"):
        return "", {}
    return scheme.lower(), {key.lower(): value for key, value in PARAMETER.findall(rest)}


def token_in(what: str, data: bytes) -> str:
    """Return the token that a token server answered with; raise ValueError where there is none."""
    try:
        table = json.loads(data)
    except ValueError:
        table = None
    if not isinstance(table, dict):
        raise ValueError(f"{shown(what)}: its answer is no token: try again later")
    # RFC 6749 calls it access_token; Docker was there earlier.
    token = table.get("token") or table.get("access_token")
    if not isinstance(token, str) or not TOKEN.fullmatch(token):
        raise ValueError(f"{shown(what)}: its answer has no token: try again later")
    return token


def remedy(host: str) -> str:
    """Return what makes us somebody for a registry."""
    how = f"`docker login {shown(host)}`, without a credential helper"
    return f"{how}, writes it into {shown(config_file())}"
