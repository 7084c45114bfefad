"""What is light does as the original does, and no start loads what it has no use for."""

import contextlib
import gc
import json
import subprocess
import sys
import weakref
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from labs.stages import BUILT
from labs.starters import commands
from stages import light
from stages.stage4_overlayfs.more import names

HEAVY = {
    "asyncio", "collections", "contextlib", "dataclasses", "enum", "functools", "hashlib",
    "importlib", "json", "re", "signal", "socket", "subprocess", "tempfile", "typing",
}  # fmt: skip
"""Each takes a millisecond or more, of a start of thirty."""
PLAIN = ("stages.stage4_overlayfs.overlay", "stages.stage5_container.more.hosts")
BRIDGED = ("stages.stage5_container.more.helper", "stages.stage5_container.more.switchboard")


@pytest.mark.parametrize("stage", BUILT)
def test_a_start_loads_nothing_heavy(stage: str) -> None:
    checkout = Path(light.__file__).parents[1]
    modules = [commands(checkout)[stage], *(PLAIN + BRIDGED if stage == "stage5" else ())]
    code = f"import sys; sys.path.insert(0, {str(checkout)!r})\n"
    code += "\n".join(f"import {module}" for module in modules) + "\nprint(*sys.modules)"
    run = [sys.executable, "-ISXutf8", "-c", code]
    loaded = subprocess.run(run, check=True, capture_output=True, text=True).stdout.split()
    assert modules[0] in loaded
    assert HEAVY & {*loaded} == set()


# ---- JSON


@pytest.mark.parametrize(
    "text",
    [
        '{"a": [1, -2.5, 1e3, true, false, null], "\\u00e4\\n": "\\ud83d\\ude00", "": {}}',
        ' \n\t"x" \r\n', "0", "[]", "", "  ", "{", "[1,]", '{"a"}', "tru", "1 2", "NaN",
        "-Infinity", '"\\x"', '"\n"', "\ufeff1", "{'a': 1}", "[1] x", "01",
    ],
)  # fmt: skip
def test_json_is_read_as_json_reads_it(text: str) -> None:
    def never(word: str) -> Any:
        raise ValueError(word)

    try:
        wanted = json.loads(text, parse_constant=never)
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            light.loads(text)
    else:
        assert light.loads(text) == wanted


def test_json_is_given_its_pairs_to_make_objects_of() -> None:
    assert light.loads('{"a": {"b": 1}}', pairs=list) == [("a", [("b", 1)])]


@pytest.mark.parametrize(
    "value",
    [{"a": [1, -2.5, True, None, (1, "ä\n")], "b": {}, "": "\ud800"}, [], "😀", 1 << 70, 1.5, {}],
)
def test_json_is_written_as_json_writes_it(value: object) -> None:
    assert light.dumps(value) == json.dumps(value)


@pytest.mark.parametrize("value", [{1, 2}, b"x", float("nan"), [object()]])
def test_what_is_no_json_is_not_written(value: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        light.dumps(value)


# ---- blocks


@pytest.mark.parametrize("kit", [light, contextlib])
def test_a_block_ends_as_contextlibs_does(kit: Any) -> None:
    steps = []

    @kit.contextmanager  # type: ignore[untyped-decorator]  # of either
    def block(name: str) -> Any:
        """Say its name."""
        try:
            steps.append("in")
            yield name
        except KeyError:
            steps.append("caught")
        finally:
            steps.append("out")

    with block("x") as given:
        steps.append(given)
    assert steps == ["in", "x", "out"]
    assert block.__doc__ == "Say its name."
    with block("y"):
        raise KeyError
    assert steps[3:] == ["in", "caught", "out"]
    with pytest.raises(OSError, match="z"), block("z"):
        raise OSError("z")
    assert steps[6:] == ["in", "out"]
    with kit.suppress(OSError, KeyError):
        raise FileNotFoundError
    with pytest.raises(ValueError, match="v"), kit.suppress(OSError):
        raise ValueError("v")


def test_an_exception_that_left_a_block_is_freed_at_once() -> None:
    class Mine(Exception):
        pass

    @light.contextmanager
    def block() -> Any:
        yield

    gc.disable()
    try:
        with contextlib.suppress(Mine), block():
            raise Mine
        error = Mine()
        gone = weakref.ref(error)
        try:
            with block():
                raise error
        except Mine:
            pass
        del error
        assert gone() is None
    finally:
        gc.enable()


# ---- tuples with names


def test_a_tuple_with_names_is_one() -> None:
    space: dict[str, Any] = {"NamedTuple": light.NamedTuple}
    exec(  # at run time, for whoever checks types sees typing's own
        "class Door(NamedTuple):\n    kind: str\n    number: int = 80\n\n"
        "    def doubled(self): return self.number * 2\n",
        space,
    )
    door = space["Door"]
    assert door("tcp") == ("tcp", 80) == door(kind="tcp", number=80)
    assert door("tcp")._replace(number=7) == ("tcp", 7)
    assert (door("tcp", 5).number, door("tcp", 5).doubled(), door._fields) == (
        *(5, 10),
        ("kind", "number"),
    )
    assert repr(door("tcp")) == "Door(kind='tcp', number=80)"
    assert json.dumps([door("tcp")]) == light.dumps([door("tcp")]) == '[["tcp", 80]]'
    assert {door("tcp"): 1}[door("tcp")] == 1
    for wrong in ((), ("a", 1, 2)):
        with pytest.raises(TypeError, match="kind, number"):
            door(*wrong)
    with pytest.raises(TypeError, match="kind, number"):
        door("tcp", colour=1)


# ---- files and modules


def test_any_bytes_of_a_file_come_through(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(range(256)) * 1000)
    text = light.read_text(str(file))
    light.write_text(f"{file}2", text)
    assert Path(f"{file}2").read_bytes() == file.read_bytes()
    light.write_text(f"{file}2", "x")
    assert light.read_text(f"{file}2") == "x"
    with pytest.raises(FileNotFoundError, match="none"):
        light.read_text(str(tmp_path / "none"))


def test_digests_are_sha256s() -> None:
    assert light.sha256(b"abc").hexdigest() == sha256(b"abc").hexdigest()


def test_what_comes_later_is_the_module_itself() -> None:
    assert light.later("json") is json
    late = light.Later("stages.stage4_overlayfs.more.compression")
    real = import_module("stages.stage4_overlayfs.more.compression")
    assert late.inflate is real.inflate
    with pytest.raises(AttributeError):
        _ = late.nothing


def test_behind_the_seal_nothing_is_loaded() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from stages import light; light.seal()\n"
        "try: import json\nexcept ImportError: print('sealed')"
    )
    checkout = str(Path(light.__file__).parents[1])
    run = [sys.executable, "-ISXutf8", "-c", code, checkout]
    assert subprocess.run(run, check=True, capture_output=True, text=True).stdout == "sealed\n"


# ---- names that are seen without a pattern


@pytest.mark.parametrize(
    "name",
    ["box", "box:1.25", "b0x:A_b-c.d", "7", "box:" + "t" * 128, "box:" + "t" * 129, "a" * 126,
     "a" * 127, "a" * 300, "", ":", "box:", "Box", "box:.x", "box:-x", "box:a b", "sha256",
     "sha256:x", "a/b", "a.b:c", "a..b", "ä", "box:ä", "a\n", "host:80/a", "host:80/a:b"],
)  # fmt: skip
def test_a_simple_name_is_one_that_the_pattern_takes(name: str) -> None:
    import re

    found = re.fullmatch(names.REFERENCE, name)
    valid = bool(found) and name.partition(":")[0] != "sha256" and len(name) <= names.LONGEST
    assert valid or not names.is_simple(name)
    if names.is_simple(name):
        assert found
        assert names.full_name(name) == f"{found[1]}:{found[2] or 'latest'}"
