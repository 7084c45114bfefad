"""What the standard library has, too, without all that it loads: of a start, a third was imports.

In ms of a start of 20: typing 9, json 5 (for the patterns of re), contextlib and collections 4,
hashlib 2 (for OpenSSL). Whoever reads a type, or writes one, sees the originals.

Modules that only some starts need come `later`: in the parent, for a child that stands in another
root would find another's files under their names. There `seal` has been called.
"""

from __future__ import annotations

import os
import sys

__all__ = [
    "NamedTuple",
    "contextmanager",
    "dumps",
    "import_module",
    "later",
    "loads",
    "read_text",
    "seal",
    "sha256",
    "suppress",
    "write_text",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import contextmanager, suppress
    from hashlib import sha256
    from importlib import import_module
    from typing import Any, NamedTuple

    make_encoder: Any
    make_scanner: Any
    spelled: Any
else:
    from _json import encode_basestring_ascii as spelled
    from _json import make_encoder, make_scanner
    from _operator import itemgetter

    if sys.version_info >= (3, 12):
        from _sha2 import sha256
    else:
        from _sha256 import sha256

    class NamedTuple(tuple):
        """typing's: a tuple whose fields have names, written as annotations of a class."""

        __slots__ = ()

        def __init_subclass__(cls) -> None:
            """Make a property of each field."""
            cls._fields = tuple(cls.__annotations__)
            cls._defaults = {one: vars(cls)[one] for one in cls._fields if one in vars(cls)}
            for at, name in enumerate(cls._fields):
                setattr(cls, name, property(itemgetter(at)))

        def __new__(cls, *values, **named):
            """Take the values, in their order or by name."""
            given = cls._defaults | dict(zip(cls._fields, values, strict=False)) | named
            if len(values) > len(cls._fields) or given.keys() != {*cls._fields}:
                raise TypeError(f"{cls.__name__} has the fields {', '.join(cls._fields)}")
            return tuple.__new__(cls, (given[name] for name in cls._fields))

        def _replace(self, **named):
            """Return one with other values."""
            return type(self)(**dict(zip(self._fields, self, strict=True)) | named)

        def __repr__(self) -> str:
            """Return it as it could be written."""
            said = (f"{name}={value!r}" for name, value in zip(self._fields, self, strict=True))
            return f"{type(self).__name__}({', '.join(said)})"

    class suppress:  # noqa: N801  # as contextlib calls it
        """contextlib's: a block that ends at such an exception, and nobody hears of it."""

        def __init__(self, *kinds) -> None:
            """Take the kinds."""
            self.kinds = kinds

        def __enter__(self) -> None:
            """Nothing."""

        def __exit__(self, kind, *_) -> bool:
            """Say whether it is one of them."""
            return kind is not None and issubclass(kind, self.kinds)

    class Block:
        """What comes of a contextmanager: a generator, held where it yields."""

        def __init__(self, steps) -> None:
            """Take the generator."""
            self.steps = steps

        def __enter__(self):
            """Go on until it yields."""
            return next(self.steps)

        def __exit__(self, kind, error, trace) -> bool:
            """Go on to its end, by way of the exception if there is one."""
            if error is None:
                next(self.steps, None)
                return False
            try:
                self.steps.throw(error)
            except StopIteration:
                return True
            except BaseException as raised:
                if raised is not error:
                    raise
                # On its way here it has met this frame, which knows it: a circle, never freed.
                error.__traceback__ = trace
            return False

    def import_module(name):
        """importlib's: the module of that name."""
        __import__(name)
        return sys.modules[name]

    def contextmanager(function):
        """contextlib's: a function whose one yield is where the block is."""

        def block(*arguments, **named):
            return Block(function(*arguments, **named))

        block.__doc__ = function.__doc__
        return block


class Reading:
    """What json's reader wants to know of who reads."""

    strict, object_hook, parse_float, parse_int = True, None, float, int

    def __init__(self, pairs: Callable[[Any], Any] | None, constant: Callable[[str], Any]) -> None:
        """Take what makes an object of its pairs, and what becomes of NaN and its like."""
        self.object_pairs_hook, self.parse_constant = pairs, constant


BLANK = " \t\n\r"


def refuse(what: object) -> Any:
    """Raise ValueError: RFC 8259 knows no NaN and no Infinity, and none of Python's own types."""
    raise ValueError(f"{what} is no JSON")


def loads(text: str, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Return what a JSON text says; raise ValueError where it is none. `pairs` makes objects."""
    text = text.strip(BLANK)
    try:
        value, end = make_scanner(Reading(pairs, refuse))(text, 0)
    except StopIteration as stop:
        raise ValueError(f"a value is missing at character {stop.value}") from None
    if end != len(text):
        raise ValueError(f"something is left at character {end}")
    return value


def dumps(value: Any) -> str:
    """Return a value as JSON, in ASCII."""
    encoder = make_encoder({}, refuse, spelled, None, ": ", ", ", False, False, False)
    return "".join(encoder(value, 0))


def read_text(path: str) -> str:
    """Return what a file says, in three system calls instead of eight; any bytes come through."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(fd, 1 << 16):
            parts.append(part)
    finally:
        os.close(fd)
    return b"".join(parts).decode("utf-8", "surrogateescape")


def write_text(path: str, text: str, flags: int = os.O_TRUNC) -> None:
    """Write a file; with O_EXCL as `flags` a new one."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o666)
    try:
        data = text.encode("utf-8", "surrogateescape")
        while data:
            data = data[os.write(fd, data) :]
    finally:
        os.close(fd)


class Later:
    """A module that is loaded when something of it is first used."""

    def __init__(self, name: str) -> None:
        """Take its name."""
        self.module = name

    def __getattr__(self, name: str) -> Any:
        """Return what the module has under that name, which is here from now on."""
        found = getattr(import_module(self.module), name)
        setattr(self, name, found)
        return found


def later(name: str) -> Any:
    """Return a module that may be needed, and costs a start too much where it isn't."""
    return sys.modules.get(name) or Later(name)


def seal() -> None:
    """In the child: load nothing from now on. In its new root, whose files would that be?"""
    sys.meta_path.clear()
