"""One question to a server and its answer: https, and plain http on this machine alone.

Written on the standard library's urllib, not on oras 0.2: that holds a blob in memory as a whole,
writes manifests anew (and so loses their digests), sleeps for minutes before it tries again, and
lets plain http go to any host.
"""

from __future__ import annotations

import errno
import http.client
import ipaddress
import os
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import NamedTuple

from stages.stage4_overlayfs.more.names import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Protocol

    class Answer(Protocol):
        """What is used of http.client.HTTPResponse."""

        status: int
        headers: http.client.HTTPMessage

        def read(self, amount: int) -> bytes:
            """Return the next bytes of the body, b"" at its end."""

        def close(self) -> None:
            """Hang up."""

    Body = Callable[[], Iterable[bytes]]
    """What begins a body from its first byte, as often as it has to be sent."""

SILENCE = 30.0
"""Seconds without a byte after which nobody is believed to be there."""
HOPS = 5
"""Redirects that are followed, one after the other: registries need one, to where blobs lie."""
PAUSES = (0.3, 1.0)
"""Seconds before the second and the third try. A fourth would fail as well."""
LONGEST_PAUSE = 5.0
"""Seconds that a server may ask us to wait; for longer than that the person decides."""
AGAIN = (429, 500, 502, 503, 504)
"""Statuses that may be others soon. See RFC 9110, section 15.6, and RFC 6585."""
REDIRECTS = (301, 302, 303, 307, 308)
LOST = (ConnectionResetError, BrokenPipeError, http.client.IncompleteRead, ssl.SSLEOFError)
"""How a connection ends that was there: what is worth another try."""
AGENT = "labrun"


class Question(NamedTuple):
    """What is asked of a server, and on whose behalf: `what` is what errors are about."""

    what: str
    method: str
    url: str
    headers: Mapping[str, str] = {}
    authorization: str = ""
    body: Body | None = None


def exchange(question: Question, *, again: bool = True) -> Answer:
    """Ask, follow redirects, and with `again` try again where that may help; return the answer.

    Its status may be any. The authorization goes to the host of the question's address, and to
    nobody else. Raises OSError, about `what`, where there is no answer, ConnectionResetError where
    there nearly was one, and ValueError where a redirect leads where we don't go.
    """
    for pause in (*PAUSES, None) if again else (None,):
        try:
            answer = followed(question)
        except LOST as error:
            if pause is None:
                raise unreachable(question.what, question.url, error) from None
        else:
            if answer.status not in AGAIN or pause is None:
                return answer
            asked = answer.headers.get("Retry-After", "")
            if asked.isdecimal():
                pause = max(pause, float(asked[:9]))
            if pause > LONGEST_PAUSE:
                return answer
            answer.close()
        time.sleep(pause)
    raise AssertionError("the last try returns, or raises")


def followed(question: Question) -> Answer:
    """Ask once, and again wherever the answer says that it is elsewhere."""
    for _ in range(HOPS + 1):
        answer = once(question)
        if answer.status not in REDIRECTS or question.method not in ("GET", "HEAD"):
            return answer
        answer.close()
        told = answer.headers.get("Location", "")
        place = next_place(question.what, question.url, told)
        if origin(place) != origin(question.url):
            # Whoever keeps the blobs gets what the address says, and never our password.
            question = question._replace(authorization="")
        question = question._replace(url=place)
    raise ValueError(
        f"{question.what}: redirected more than {HOPS} times: tell who keeps the registry"
    )


def once(question: Question) -> Answer:
    """Send one request, and return the answer; raise one of LOST, or OSError about `what`."""
    # urllib's usual opener follows redirects with Authorization and all, and opens file: too.
    opener = urllib.request.OpenerDirector()
    if question.url.startswith("https:"):
        # It reads all certificates that this machine trusts.
        opener.add_handler(urllib.request.HTTPSHandler())
    else:
        opener.add_handler(urllib.request.HTTPHandler())
    if not is_here(question.url):
        opener.add_handler(urllib.request.ProxyHandler())
    headers = {**question.headers, "User-Agent": AGENT}
    if question.authorization:
        headers["Authorization"] = question.authorization
    data = sent(question.body) if question.body else None
    request = urllib.request.Request(question.url, data, headers, method=question.method)
    try:
        answer: Answer = opener.open(request, timeout=SILENCE)
    except urllib.error.URLError as error:
        if isinstance(error.reason, LOST):
            raise error.reason from None
        raise unreachable(question.what, question.url, error.reason) from None
    except Unread as unread:
        raise unread.error from None
    except LOST:
        raise
    except (http.client.HTTPException, OSError, UnicodeError) as error:
        raise unreachable(question.what, question.url, error) from None
    return answer


class Unread(Exception):
    """A body that can't be read here, which is no fault of the network's."""

    def __init__(self, error: OSError) -> None:
        """Keep what it is."""
        self.error = error


def sent(body: Body) -> Iterator[bytes]:
    """Yield a body; urllib takes each OSError for one of the connection, and would take ours."""
    try:
        yield from body()
    except OSError as error:
        raise Unread(error) from None


def origin(url: str) -> tuple[str, str, int]:
    """Return what has to be the same for two addresses to be the same server: RFC 6454."""
    parts = urllib.parse.urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return parts.scheme, (parts.hostname or "").lower(), port


def is_here(url: str) -> bool:
    """Return whether an address is this machine's own: what is sent there never leaves it."""
    host = urllib.parse.urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def next_place(what: str, url: str, told: str) -> str:
    """Return where a server sends us; raise ValueError where that is less safe than `url` is."""
    try:
        # geturl() spells HTTPS: as everything here expects it.
        place = urllib.parse.urlsplit(urllib.parse.urljoin(url, told)).geturl()
        scheme, host, _ = origin(place)
    except ValueError:
        place = scheme = host = ""
    plain = scheme == "http" and is_here(place) and not url.startswith("https:")
    if not host or not (scheme == "https" or plain):
        why = "plain http" if scheme == "http" else "no address"
        raise ValueError(
            f"{what}: it sends us to {why}, {shown(told)}: tell who keeps the registry"
        )
    return place


def unreachable(what: str, url: str, error: object) -> OSError:
    """Return an error of this program's for one of the network's: what, why, remedy."""
    parts = urllib.parse.urlsplit(url)
    server = shown(parts.netloc)
    number = error.errno if isinstance(error, OSError) and error.errno else errno.EIO
    if isinstance(error, ssl.SSLCertVerificationError):
        number = errno.EPROTO
        why = f"the certificate of {server} is not trusted ({error.verify_message})"
        remedy = "install its issuer's, or name that in SSL_CERT_FILE"
    elif isinstance(error, LOST):
        # Not EPIPE: whoever reads our output ends us by that, and hears no reason.
        number, remedy = errno.ECONNRESET, "try again later"
        why = f"{server} hung up before all was said"
    elif isinstance(error, ssl.SSLError):
        number = errno.EPROTO
        why, remedy = f"{server} speaks no TLS ({error.reason or error})", "look at the port"
        if not is_here(url):
            remedy = "plain http is for registries on this machine, such as 127.0.0.1:5000"
    elif isinstance(error, socket.gaierror | UnicodeError):
        number, why = errno.EHOSTUNREACH, f"no address for {shown(parts.hostname)}"
        remedy = "look at the spelling, and at the network"
    elif isinstance(error, ConnectionRefusedError):
        why, remedy = f"nobody listens at {server}", "look at the port, and whether it runs"
    elif isinstance(error, TimeoutError):
        number, why = errno.ETIMEDOUT, f"{server} said nothing for {SILENCE:.0f} seconds"
        remedy = "try again later, or look at the network"
    elif isinstance(error, http.client.HTTPException):
        number, why, remedy = errno.EPROTO, f"{server} speaks no HTTP", "look at the port"
    else:
        text = os.strerror(number) if number != errno.EIO else str(error)
        why, remedy = f"{server}: {shown(text)}", "look at the network"
    return OSError(number, f"{why}: {remedy}", what)
