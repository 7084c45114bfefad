"""Stage 4's builder: what a Dockerfile means, what is made again, what is refused."""

import io
import json
import os
import random
import signal
import socket
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from stages import linux
from stages.stage4_overlayfs import storage
from stages.stage4_overlayfs.image import Image, open_layer
from stages.stage4_overlayfs.more import dockerfile
from stages.stage4_overlayfs.more.build import Event, Failed, build, sweep
from stages.stage4_overlayfs.more.commit import commit
from stages.stage4_overlayfs.more.dockerfile import Refused
from stages.stage4_overlayfs.more.dockerignore import Ignore
from stages.stage4_overlayfs.more.history import history
from stages.stage4_overlayfs.more.importing import import_image
from stages.stage4_overlayfs.more.prune import prune
from stages.stage4_overlayfs.more.verify import verify
from stages.stage4_overlayfs.more.words import expand, split
from stages.stage4_overlayfs.store import Store
from tests.stages.storing import apart

pytestmark = [pytest.mark.usefixtures("as_root"), pytest.mark.xdist_group("machine")]

NOON = 1_700_000_000

# ---- lines


def parsed(text: str) -> list[tuple[int, str, list[str] | list[tuple[str, str | None]]]]:
    """Return line, name and words of each instruction behind a FROM."""
    found, _ = dockerfile.parse(text.encode())
    return [(one.line, one.name, one.words or one.pairs) for one in found]


def test_lines_go_on_and_comments_do_not_end_them() -> None:
    text = (
        "# a comment\n\n  FROM scratch\n"
        "RUN one \\\n    two \\  \n# not a part\n   # nor this\n\n  three\n"
        'run last\\\\\nCMD ["a", \\\n "b"]\nENV A=1 \\\n  B=2'
    )
    assert parsed(text) == [
        (3, "FROM", ["scratch"]),
        (4, "RUN", ["one     two   three"]),
        (10, "RUN", ["last\\\\"]),
        (11, "CMD", ["a", "b"]),
        (13, "ENV", [("A", "1"), ("B", "2")]),
    ]


def test_lines_may_end_as_on_windows_and_begin_with_a_byte_order_mark() -> None:
    assert parsed("\ufeffFROM scratch\r\nRUN a \\\r\n b\r\n")[1:] == [(2, "RUN", ["a  b"])]


def test_another_escape_character_leaves_the_backslash_alone() -> None:
    text = "# escape=`\nFROM scratch\nRUN dir C:\\\nRUN a `\n b\nENV P=C:\\x` y"
    assert parsed(text)[1:] == [
        (3, "RUN", ["dir C:\\"]),
        (4, "RUN", ["a  b"]),
        (6, "ENV", [("P", "C:\\x` y")]),
    ]
    # Behind anything else it is a comment.
    assert parsed("# hello\n# escape=`\nFROM scratch\nRUN a \\\n b")[1][2] == ["a  b"]


def test_a_syntax_directive_is_remarked_and_ignored() -> None:
    found, remarks = dockerfile.parse(b"#syntax=docker/dockerfile:1\n# escape=\\\nFROM scratch")
    assert (len(found), remarks) == (1, [(1, "# syntax= is ignored: this is not BuildKit")])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('RUN ["a", "b c"]', ["a", "b c"]),
        ('RUN [ "a" ]', ["a"]),
        ("RUN ['a']", ["['a']"]),
        ("RUN [ -f x ] && y", ["[ -f x ] && y"]),
        ("COPY a b  c/", ["a", "b", "c/"]),
        ('COPY ["a b", "c d/"]', ["a b", "c d/"]),
        ("ENV A=1 B='2 3' C=a\\ b", [("A", "1"), ("B", "'2 3'"), ("C", "a\\ b")]),
        ("ENV A  two  words=", [("A", "two  words=")]),
        ('LABEL a.b=c "d e"=f', [("a.b", "c"), ('"d e"', "f")]),
        ("ARG A B=2", [("A", None), ("B", "2")]),
        ("EXPOSE 80 443/udp", ["80", "443/udp"]),
        ('VOLUME ["/a b", "/c"]', ["/a b", "/c"]),
        ("VOLUME /a /b", ["/a", "/b"]),
        ("WORKDIR /a b", ["/a b"]),
        ("RUN echo $((1 << 2)) # kept", ["echo $((1 << 2)) # kept"]),
    ],
)
def test_words_of_an_instruction(text: str, words: list[Any]) -> None:
    assert parsed(f"FROM scratch\n{text}")[1][2] == words


REFUSED = {
    # text behind "FROM scratch": line, part of the reason
    "NOPE a": (2, "NOPE: not an instruction"),
    "\n\nVOLUME []": (4, "empty list"),
    'SHELL ["a"]': (2, 'RUN ["program"'),
    "HEALTHCHECK NONE": (2, "leave it out"),
    "ONBUILD RUN a": (2, "build on this image"),
    "MAINTAINER me": (2, "LABEL maintainer"),
    "FROM other": (2, "a second FROM"),
    "COPY --from=x a b": (2, "one stage"),
    "COPY --link a b": (2, "--link: not known"),
    "RUN --mount=type=cache,target=/x a": (2, "--mount: not known"),
    "RUN <<EOF\na\nEOF": (2, "here-document"),
    "COPY <<-'X' /a\nX": (2, "here-document"),
    "RUN": (2, "RUN without anything"),
    "RUN []": (2, "empty list"),
    'RUN ["a", 1]': (2, "other things than texts"),
    'RUN ["a"] b': (2, "behind the list"),
    "COPY a": (2, "a source and a destination"),
    "COPY a b c": (2, "end c with a /"),
    "COPY --chown= a b": (2, "--chown=VALUE"),
    "ADD https://a/b /": (2, "fetch it yourself"),
    "ENV A": (2, "A without a value"),
    "ENV A=1 B": (2, "B: not NAME=VALUE"),
    "ENV =1": (2, "not NAME=VALUE"),
    "ARG 1=2": (2, "not NAME or NAME=VALUE"),
    "RUN a\0": (2, "NUL"),
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_not_known_is_refused_with_its_line(text: str) -> None:
    line, reason = REFUSED[text]
    with pytest.raises(Refused) as caught:
        parsed(f"FROM scratch\n{text}")
    assert str(caught.value).startswith(f"Dockerfile:{line}: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", ":1: no FROM"),
        (b"ARG a\n", ":1: no FROM"),
        (b"RUN a\nFROM x", ":1: RUN before FROM"),
        (b"FROM a b", ":1: FROM a b: say"),
        (b"FROM --platform=x a", "--platform: not known"),
        (b"FROM a\nRUN \xff", ":2: not UTF-8"),
        (b"# escape=x\nFROM a", ":1: # escape=x"),
        (b"# escape=`\n# escape=`\nFROM a", ":2: # escape= is there twice"),
        (b"FROM a\n" + b"#" * (1 << 20), "longer than"),
    ],
)
def test_a_dockerfile_that_is_none_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(Refused, match="Dockerfile:") as caught:
        dockerfile.parse(data)
    assert reason in str(caught.value)


# ---- variables: Docker's reference, "Environment replacement", and moby's test tables

VALUES = {"X": "x y", "E": "", "HOME": "/h"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("$X", "x y"),
        ("${X}z", "x yz"),
        ("$Xz", ""),
        ("a$X/b", "ax y/b"),
        ("\\$X", "$X"),
        ("\\${X}", "${X}"),
        ("'$X'", "$X"),
        ('"$X"', "x y"),
        ('"\\$X\\"\\a"', '$X"\\a'),
        ("a'b'\"c\"", "abc"),
        ("a\\ b", "a b"),
        ("$", "$"),
        ("a$ b", "a$ b"),
        ("$/", "$/"),
        ("${N:-d}", "d"),
        ("${E:-d}", "d"),
        ("${E-d}", ""),
        ("${N-d}", "d"),
        ("${X:-d}", "x y"),
        ("${X:+a}", "a"),
        ("${E:+a}", ""),
        ("${E+a}", "a"),
        ("${N:+a}", ""),
        ("${N:-${X}}", "x y"),
        ("${N:-'}'}", "}"),
        ("${N:-a$HOME}b", "a/hb"),
        ("${X:?no}", "x y"),
        ("$1", ""),
        ("$$X", "X"),
        ("", ""),
    ],
)
def test_variables_are_replaced_as_docker_does(text: str, value: str) -> None:
    assert expand(text, VALUES) == value


@pytest.mark.parametrize(
    "text", ["${", "${}", "${X", "${:-a}", "${X:}", "${X:=a}", "${X#a}", "'a", '"a', "${N:?why}"]
)
def test_what_is_no_substitution_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r": "):
        expand(text, VALUES)


def test_words_end_at_blanks_outside_of_quotes() -> None:
    assert split("a 'b c'  \"d e\"\\ f\tg\\") == ["a", "'b c'", '"d e"\\ f', "g"]


# ---- .dockerignore: Docker's "Build context", and moby's patternmatcher tests


@pytest.mark.parametrize(
    ("lines", "ignored", "kept"),
    [
        ("a", ["a", "a/b/c"], ["b/a", "ab"]),
        ("/a/", ["a", "a/b"], ["b"]),
        ("./b/../a", ["a"], ["b"]),
        ("*/temp*", ["x/temp", "x/tempo/y"], ["temp", "x/y/temp"]),
        ("*/*/temp*", ["x/y/temp1"], ["x/temp"]),
        ("temp?", ["tempa"], ["temp", "temp/", "tempab"]),
        ("**/*.go", ["a.go", "x/y/a.go"], ["a.goo", "go"]),
        ("**", ["a", "a/b"], []),
        ("a/**", ["a/b", "a/b/c"], ["a", "b"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b/z"], ["a", "a/xb"]),
        ("**file", ["file", "dir/file"], ["files"]),
        ("dir**", ["dir", "dirs/x"], ["a/dir"]),
        ("*.md\n!README.md", ["a.md"], ["README.md"]),
        ("*.md\n!README*.md\nREADME-secret.md", ["README-secret.md", "a.md"], ["README-x.md"]),
        ("*.md\nREADME-secret.md\n!README*.md", ["a.md"], ["README-secret.md"]),
        ("a\n!a/b", ["a", "a/c"], ["a/b", "a/b/c"]),
        ("*\n!src", ["x", "x/src"], ["src", "src/a"]),
        ("# a\n\n   \n #b", ["#b"], ["a", "# a"]),
        ("[a-c]x", ["ax", "cx"], ["dx", "/x"]),
        ("[^a]x", ["bx"], ["ax"]),
        ("\\*", ["*"], ["a"]),
        ("a+(b)", ["a+(b)"], ["aab"]),
        ("a.b", ["a.b"], ["axb"]),
        (".", [], ["a"]),
        ("../a", [], ["a"]),
        ("\ufeffa", ["a"], []),
        ("  a  ", ["a"], []),
        ("!  a", [], ["a"]),
    ],
)
def test_patterns_of_dockerignore(lines: str, ignored: list[str], kept: list[str]) -> None:
    ignore = Ignore(lines)
    assert [path for path in ignored + kept if ignore.ignores(path)] == ignored


@pytest.mark.parametrize("line", ["!", "[a", "a\\", "[z-a]", "[]"])
def test_what_is_no_pattern_is_refused_with_its_line(line: str) -> None:
    with pytest.raises(ValueError, match=r"^\.dockerignore:2: "):
        Ignore(f"a\n{line}")


# ---- builds


def by_shell(
    config: dict[str, Any], root: str, command: list[str], env: dict[str, str], cwd: str, user: str
) -> int:
    """Run a command beside the image's tree, which is its directory: it has no container."""
    if command[0] == "/bin/sh":
        command = ["/bin/sh", "-c", command[-1]]
    ran = {**env, "PATH": os.environ["PATH"], "U": user}
    return subprocess.run(command, cwd=root + cwd, env=ran, check=False).returncode


class Bench:
    """A store, a driver and a context."""

    def __init__(self, top: Path, driver: str = "vfs") -> None:
        self.store = Store(str(top / "store"))
        self.driver = storage.choose(driver, self.store.root)
        self.top, self.context = top, top / "context"
        self.context.mkdir()
        self.ran: list[list[str]] = []
        self.more: dict[str, Any] = {}

    def file(self, name: str, text: str = "", mode: int = 0o644) -> Path:
        path = self.context / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(mode)
        os.utime(path, (NOON, NOON))
        return path

    def run(
        self,
        config: dict[str, Any],
        root: str,
        command: list[str],
        env: dict[str, str],
        cwd: str,
        user: str,
    ) -> int:
        self.ran.append(command)
        return by_shell(config, root, command, env, cwd, user)

    def events(self, text: str, **more: Any) -> list[Event]:
        self.file("Dockerfile", text)
        given: dict[str, Any] = {"tag": "built", "run": self.run, **self.more, **more}
        return list(build(self.store, self.driver, str(self.context), **given))

    def build(self, text: str, **more: Any) -> Image:
        return Image(self.store, self.events(text, **more)[-1].digest)

    def cached(self, text: str, **more: Any) -> str:
        """Return a letter for each step: c from the cache, m made."""
        events = self.events(text, **more)
        return "".join(one.what[0] for one in events if one.what in ("cached", "made"))

    def rows(self, image: Image) -> dict[str, tarfile.TarInfo]:
        """Return the entries of the top layer."""
        with open_layer(self.store, image.layers[-1]) as file:
            data = file.read()
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            return {row.name: row for row in archive.getmembers()}

    def names(self, text: str) -> list[str]:
        """Return the files of the top layer, without the root."""
        return sorted(set(self.rows(self.build(text))) - {"."})

    def base(self, **files: str) -> None:
        """Import an image `base`, of files, links (->) and directories (/)."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            for name, text in files.items():
                row = tarfile.TarInfo(name.replace("__", "/"))
                row.mtime, row.mode = NOON, 0o755
                if text.startswith("->"):
                    row.type, row.linkname = tarfile.SYMTYPE, text[2:]
                elif text == "/":
                    row.type, row.mode = tarfile.DIRTYPE, 0o2750
                else:
                    row.size = len(text)
                archive.addfile(row, io.BytesIO(text.encode() if row.size else b""))
        out.seek(0)
        import_image(self.store, out, "base")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_settings_become_the_configuration(bench: Bench) -> None:
    image = bench.build(
        "ARG BASE=scratch\nFROM ${BASE} AS x\n"
        "ARG V=1 W\nENV A=$V B='$V' C=\"${W:-w}\" \n"
        "ENV A=2 D=$A\nLABEL a.b=$A \"c d\"='e f'\n"
        "WORKDIR /one\nWORKDIR two/../$A\nUSER u:g\nEXPOSE 80 8000-8001/udp\n"
        'ENTRYPOINT ["/x", "$A"]\nCMD echo $A\n'
        'VOLUME /data /$A\nVOLUME ["/a b"]\nSTOPSIGNAL SIGQUIT\n'
    )
    assert image.config["config"] == {
        "Volumes": {"/data": {}, "/2": {}, "/a b": {}},
        "StopSignal": "SIGQUIT",
        "Env": ["A=2", "B=$V", "C=w", "D=1"],
        "Labels": {"a.b": "2", "c d": "e f"},
        "WorkingDir": "/one/2",
        "User": "u:g",
        "ExposedPorts": {"80/tcp": {}, "8000/udp": {}, "8001/udp": {}},
        "Entrypoint": ["/x", "$A"],
        "Cmd": ["/bin/sh", "-c", "echo $A"],
    }
    told = [row["created_by"] for row in history(image)]
    assert told[1:3] == ["ENV A=2 D=1", "LABEL a.b=2 c d=e f"]
    assert [row["empty"] for row in history(image)].count(False) == 2  # the two directories


@pytest.mark.parametrize("line", ["STOPSIGNAL NOPE", "STOPSIGNAL 65", "VOLUME here", "VOLUME /."])
def test_a_setting_that_makes_no_sense_is_refused(bench: Bench, line: str) -> None:
    with pytest.raises(ValueError, match=r"Dockerfile:2: .*say "):
        bench.build(f"FROM scratch\n{line}")


def test_a_new_entrypoint_clears_the_bases_command_and_a_list_clears_itself(bench: Bench) -> None:
    bench.build('FROM scratch\nENTRYPOINT ["/a"]\nCMD ["b"]', tag="one")
    assert bench.build("FROM one\nENTRYPOINT c").config["config"] == {
        "Entrypoint": ["/bin/sh", "-c", "c"]
    }
    both = 'FROM one\nCMD ["d"]\nENTRYPOINT []'
    assert bench.build(both).config["config"] == {"Cmd": ["d"]}


def test_an_argument_comes_from_outside_only_where_it_is_declared(bench: Bench) -> None:
    text = (
        "ARG A=1\nARG B\nFROM scratch\nARG A\nARG B=2\nARG C\nENV X=$A$B$C$D\nENV A=env\nENV Y=$A"
    )
    assert bench.build(text).config["config"]["Env"] == ["X=12", "A=env", "Y=env"]
    events = bench.events(text, build_args={"A": "a", "C": "c", "D": "d"})
    image = Image(bench.store, events[-1].digest)
    assert image.config["config"]["Env"] == ["X=a2c", "A=env", "Y=env"]
    assert [one.text for one in events if one.what == "note"] == [
        "--build-arg D: no ARG asks for it"
    ]
    with pytest.raises(ValueError, match="FROM nothing"):
        bench.build("ARG A\nFROM $A")


def test_run_has_its_variables_directory_and_user_and_makes_a_layer(bench: Bench) -> None:
    image = bench.build(
        "FROM scratch\nARG Q=q\nENV E=e\nWORKDIR /w\nUSER me\nRUN echo $Q$E$U > f\n"
        'RUN ["sh", "-c", "echo list > g"]'
    )
    assert bench.ran == [["/bin/sh", "-c", "echo $Q$E$U > f"], ["sh", "-c", "echo list > g"]]
    assert [len(image.layers), set(bench.rows(image))] == [3, {".", "w", "w/g"}]
    with open_layer(bench.store, image.layers[1]) as file:
        assert b"qeme\n" in file.read()
    assert history(image)[-2]["created_by"] == "RUN |1 Q=q /bin/sh -c echo $Q$E$U > f"


def test_a_failing_run_ends_the_build_with_its_status_and_line(bench: Bench) -> None:
    bench.build("FROM scratch\nLABEL a=b")
    before = bench.store.resolve("built")
    with pytest.raises(Failed) as caught:
        bench.build("FROM scratch\n\nRUN touch a\nRUN touch b; exit 7\nRUN never")
    assert caught.value.status == 7
    assert str(caught.value) == "Dockerfile:4: RUN touch b; exit 7: ended with status 7"
    assert [command[-1] for command in bench.ran] == ["touch a", "touch b; exit 7"]
    assert bench.store.resolve("built") == before
    assert verify(bench.store) == []
    assert os.listdir(f"{bench.store.root}/containers") == []
    # What went before it needn't be made again.
    assert bench.cached("FROM scratch\nRUN touch a\nRUN true") == "cm"


# ---- COPY and ADD


@pytest.mark.parametrize(
    ("copy", "made"),
    [
        ("COPY a /x", ["x"]),
        ("COPY a /x/", ["x", "x/a"]),
        ("COPY a .", ["a"]),
        ("COPY ./a /", ["a"]),
        ("COPY /a /", ["a"]),
        ("COPY a d/b /x/", ["x", "x/a", "x/b"]),
        ("COPY d /x", ["x", "x/b", "x/e", "x/e/f"]),
        ("COPY d/e /x/y", ["x", "x/y", "x/y/f"]),
        ("COPY d/* /x/", ["x", "x/b", "x/f"]),
        ("COPY [ad] /x/", ["x", "x/a", "x/b", "x/e", "x/e/f"]),
        ("COPY d/? /x/", ["x", "x/b", "x/f"]),
        ('COPY ["with blank", "/x y/"]', ["x y", "x y/with blank"]),
        ("COPY link /x", ["x"]),
        ("COPY inner/ /x", ["x", "x/to-a"]),
        ("ENV N=a\nCOPY $N ${T:-/t}", ["t"]),
    ],
)
def test_where_copy_puts_what(bench: Bench, copy: str, made: list[str]) -> None:
    for name in ("a", "d/b", "d/e/f", "with blank"):
        bench.file(name, name)
    (bench.context / "link").symlink_to("a")
    (bench.context / "inner").mkdir()
    (bench.context / "inner/to-a").symlink_to("../a")
    assert bench.names(f"FROM scratch\n{copy}") == made
    assert verify(bench.store) == []


def test_copy_keeps_bytes_modes_links_and_times_and_gives_all_to_root(bench: Bench) -> None:
    path = bench.file("d/a", "text", 0o4711)
    os.chown(path, 5, 6)
    path.chmod(0o4711)
    os.utime(path, ns=(1, NOON * 10**9 + 5))
    (bench.context / "d/l").symlink_to("/etc/passwd")
    rows = bench.rows(bench.build("FROM scratch\nCOPY d /x"))
    assert (rows["x/a"].mode, rows["x/a"].uid, rows["x/a"].gid) == (0o4711, 0, 0)
    assert rows["x/a"].pax_headers["mtime"] == f"{NOON}.000000005"
    assert (rows["x/l"].linkname, rows["x/l"].issym()) == ("/etc/passwd", True)


def test_owners_and_modes_may_be_said(bench: Bench) -> None:
    bench.base(
        etc="/", etc__passwd="root:x:0:0::/:\nme:x:7:8::/:\n", etc__group="g:x:9:\n", old="/"
    )
    bench.file("d/a")
    for owner, ids in {
        "me": (7, 8),
        "me:g": (7, 9),
        "3": (3, 3),
        "3:g": (3, 9),
        "me:4": (7, 4),
    }.items():
        rows = bench.rows(bench.build(f"FROM base\nCOPY --chown={owner} --chmod=640 d /new/x"))
        assert {(row.uid, row.gid) for name, row in rows.items() if name != "."} == {ids}
        assert [rows["new/x/a"].mode, rows["new/x"].mode, rows["new"].mode] == [0o640, 0o640, 0o755]
    rows = bench.rows(bench.build("FROM base\nCOPY --chown=me d /old"))
    assert (rows["old"].uid, rows["old"].mode, rows["old"].mtime) == (0, 0o2750, NOON)
    for flag in ("--chown=you", "--chown=me:you", "--chown=4294967295", "--chmod=u+x"):
        with pytest.raises(Refused, match=r":2: .*say"):
            bench.build(f"FROM base\nCOPY {flag} d /x")


def test_links_of_the_image_are_followed_in_the_image(bench: Bench) -> None:
    bench.base(
        usr="/",
        usr__lib="/",
        lib="->usr/lib",
        out="->../../../../../usr",
        abs="->/usr/lib",
        file="text",
        etc="/",
        etc__passwd="->/../../../../etc/passwd",
    )
    bench.file("a")
    for target in ("/lib/", "/out/lib/", "/abs/a"):
        assert bench.names(f"FROM base\nCOPY a {target}") == ["usr", "usr/lib", "usr/lib/a"]
    bench.file("d/lib/x")
    for copy, why in {
        "COPY d /": "a link there",
        "COPY a /file/": "no directory there",
        "COPY d /file": "no directory there",
        "COPY --chown=root a /": "too many|Too many|say a number",
    }.items():
        with pytest.raises((Refused, OSError), match=why):
            bench.build(f"FROM base\n{copy}")
    bench.file("e/usr")
    with pytest.raises(Refused, match="a directory there"):
        bench.build("FROM base\nCOPY e /")


def test_add_unpacks_a_tar_and_copy_does_not(bench: Bench) -> None:
    with tarfile.open(bench.context / "t.tar.gz", "w:gz") as archive:
        row = tarfile.TarInfo("d/f")
        row.size, row.uid, row.mtime = 2, 12, NOON
        archive.addfile(row, io.BytesIO(b"hi"))
        link = tarfile.TarInfo("d/g")
        link.type, link.linkname = tarfile.LNKTYPE, "d/f"
        archive.addfile(link)
    bench.file("plain.gz", "no archive")
    assert bench.names("FROM scratch\nCOPY t.tar.gz /x/") == ["x", "x/t.tar.gz"]
    rows = bench.rows(bench.build("FROM scratch\nADD t.tar.gz plain.gz /x/"))
    assert sorted(rows) == ["x", "x/d/f", "x/d/g", "x/plain.gz"]
    assert (rows["x/d/f"].uid, rows["x/d/g"].linkname) == (12, "x/d/f")
    assert verify(bench.store) == []


def test_dockerignore_keeps_files_out_and_the_dockerfiles_own_comes_first(bench: Bench) -> None:
    for name in ("a", "secret", "d/x", "d/keep"):
        bench.file(name)
    (bench.context / "link").symlink_to("secret")
    bench.file(".dockerignore", "secret\nd\n!d/keep\nDockerfile\n.dockerignore\nlink")
    assert bench.names("FROM scratch\nCOPY . /x/") == ["x", "x/a", "x/d", "x/d/keep"]
    with pytest.raises(OSError, match=r"Dockerfile:2: not in the context.*secret"):
        bench.build("FROM scratch\nCOPY secret /")
    bench.file("Dockerfile.dockerignore", "*\n!a")
    assert bench.names("FROM scratch\nCOPY . /x/") == ["x", "x/a"]


# ---- hostile contexts


def hostile(bench: Bench) -> Iterator[tuple[str, str]]:
    """Yield instructions, with what is said of each."""
    outside = bench.top / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret", encoding="ascii")
    for name, target in {
        "absolute": f"{outside}/secret",
        "up": "../outside/secret",
        "folder": "../outside",
        "twice": "folder",
        "root": "/",
        "chain": "inner/../../outside/secret",
    }.items():
        (bench.context / name).symlink_to(target)
        yield f"COPY {name} /x", "out of the context"
    (bench.context / "inner").mkdir()
    yield "COPY folder/secret /x", "not in the context|out of the context"
    yield "COPY ../outside/secret /x", "out of the context"
    yield "COPY a/../../outside/secret /x", "out of the context"
    (bench.context / "loop").symlink_to("loop")
    yield "COPY loop /x", "Too many levels"
    (bench.context / "dangling").symlink_to("nothing")
    yield "COPY dangling /x", "not in the context"
    os.mkfifo(bench.context / "inner/fifo")
    yield "COPY inner /x", "a device or FIFO"
    yield "COPY inner/fifo /x", "a device or FIFO"
    bench.file("gone/.wh.x")
    yield "COPY gone /x", "would be a deletion"
    yield "COPY nothing /x", "not in the context"
    yield "COPY no*thing /x", "not in the context"
    yield "COPY [a /x", "without its"
    for number, (name, kind, link) in enumerate(
        [
            ("../x", tarfile.REGTYPE, ""),
            ("l/x", tarfile.SYMTYPE, "/etc"),
            (".wh.x", tarfile.REGTYPE, ""),
            ("h", tarfile.LNKTYPE, "../../etc/passwd"),
            ("h", tarfile.LNKTYPE, "etc/passwd"),
        ]
    ):
        with tarfile.open(bench.context / f"bad{number}.tar", "w") as archive:
            row = tarfile.TarInfo(name)
            row.type, row.linkname = kind, link
            archive.addfile(row)
            if kind == tarfile.SYMTYPE:
                archive.addfile(tarfile.TarInfo("l/x/y"))
        yield f"ADD bad{number}.tar /x/", "lead out|below a file|deletion|no earlier file"


def test_nothing_outside_of_the_context_is_read(bench: Bench) -> None:
    for copy, why in hostile(bench):
        with pytest.raises((ValueError, OSError), match=why):
            bench.build(f"FROM scratch\nENV A=1\n{copy}")
        assert verify(bench.store) == []
        assert os.listdir(f"{bench.store.root}/tmp") == []
    assert bench.store.names() == {}


@apart
def test_a_mount_in_the_context_is_refused_unless_it_is_ignored(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.file("a")
    (bench.context / "m").mkdir()
    linux.mount("tmpfs", str(bench.context / "m"), "tmpfs", 0, None)
    with pytest.raises(OSError, match="another file system is mounted there"):
        bench.build("FROM scratch\nCOPY . /x/")
    bench.file(".dockerignore", "m\n.dockerignore\nDockerfile")
    assert bench.names("FROM scratch\nCOPY . /x/") == ["x", "x/a"]


def test_links_in_what_is_copied_stay_links(bench: Bench) -> None:
    (bench.context / "d").mkdir()
    (bench.context / "d/out").symlink_to(bench.top)
    rows = bench.rows(bench.build("FROM scratch\nCOPY d /x"))
    assert sorted(rows) == ["x", "x/out"]
    assert rows["x/out"].issym()


def test_the_dockerfile_itself_is_no_way_out(bench: Bench) -> None:
    (bench.top / "shadow").write_text("root:secret", encoding="ascii")
    (bench.context / "D").symlink_to("../shadow")
    with pytest.raises(OSError, match="out of the context"):
        bench.events("FROM scratch", dockerfile="D")
    (bench.context / ".dockerignore").symlink_to("../shadow")
    with pytest.raises(OSError, match="out of the context"):
        bench.events("FROM scratch")
    (bench.context / ".dockerignore").unlink()
    os.mkfifo(bench.context / ".dockerignore")
    with pytest.raises(ValueError, match="not a file"):
        bench.events("FROM scratch")


def test_a_file_that_changes_between_key_and_layer_is_not_copied(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = bench.file("a", "one")
    prepare = type(bench.driver).prepare

    def change(self: Any, layers: Any) -> None:
        path.write_text("two", encoding="ascii")
        prepare(self, layers)

    monkeypatch.setattr(type(bench.driver), "prepare", change)
    with pytest.raises(OSError, match="changed during the build"):
        bench.build("FROM scratch\nCOPY a /")


def test_a_folder_that_becomes_a_link_meanwhile_is_not_followed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.file("d/a", "one")
    other = bench.top / "d"
    other.mkdir()
    (other / "a").write_text("one", encoding="ascii")
    prepare = type(bench.driver).prepare

    def change(self: Any, layers: Any) -> None:
        if not (bench.context / "d").is_symlink():
            (bench.context / "d").rename(bench.context / "e")
            (bench.context / "d").symlink_to(other)
        prepare(self, layers)

    bench.file("b")
    monkeypatch.setattr(type(bench.driver), "prepare", change)
    with pytest.raises(OSError, match=r"symbolic links|Not a directory"):
        bench.build("FROM scratch\nCOPY d b /x/")


def test_sockets_are_left_out(bench: Bench) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(bench.context)
        try:
            server.bind("s")
        finally:
            os.chdir(here)
        bench.file("a")
        bench.file(".dockerignore", "Dockerfile\n.dockerignore")
        assert bench.names("FROM scratch\nCOPY . /x/") == ["x", "x/a"]


# ---- the cache

TEXT = "FROM scratch\nARG V=1\nENV E=1\nCOPY d /d\nRUN echo hi > r\nLABEL a=b\nCOPY f /f\n"


def touched(bench: Bench) -> None:
    os.utime(bench.context / "d/a", (1, 1))


def own(bench: Bench) -> None:
    os.chown(bench.context / "d/a", 3, 3)


CHANGES: dict[str, tuple[Callable[[Bench], object], Mapping[str, str], str]] = {
    # ENV, COPY d, RUN, LABEL, COPY f: c cached, m made
    "nothing": (lambda _: None, {}, "ccccc"),
    "a file's times": (touched, {}, "ccccc"),
    "the owner of a file, which becomes root's": (own, {}, "ccccc"),
    "a file's bytes": (lambda bench: bench.file("d/a", "x"), {}, "cmmmm"),
    "a file's mode": (lambda bench: (bench.context / "d/a").chmod(0o600), {}, "cmmmm"),
    "a file's name": (
        lambda bench: (bench.context / "d/a").rename(bench.context / "d/z"),
        {},
        "cmmmm",
    ),
    "a new file": (lambda bench: bench.file("d/new"), {}, "cmmmm"),
    "a link": (lambda bench: (bench.context / "d/l").symlink_to("a"), {}, "cmmmm"),
    "a file that is not copied": (lambda bench: bench.file("other"), {}, "ccccc"),
    "the last file": (lambda bench: bench.file("f", "x"), {}, "ccccm"),
    "an argument, from the first RUN on": (
        lambda bench: bench.more.update(build_args={"V": "2"}),
        {},
        "ccmmm",
    ),
    "a command": (lambda _: None, {"echo hi": "echo  hi"}, "ccmmm"),
    "a variable": (lambda _: None, {"E=1": "E=2"}, "mmmmm"),
    "a label, and what is behind it": (lambda _: None, {"a=b": "a=c"}, "cccmm"),
    "a destination": (lambda _: None, {"/f": "/g"}, "ccccm"),
    "an owner": (lambda _: None, {"COPY f": "COPY --chown=1 f"}, "ccccm"),
    "a comment and a blank": (lambda _: None, {"RUN echo": "# so\nRUN  echo"}, "ccccc"),
    "a variable that has the same value": (
        lambda _: None,
        {"COPY d /d": "COPY d /${N:-d}"},
        "ccccc",
    ),
    "no cache": (lambda bench: bench.more.update(cache=False), {}, "mmmmm"),
    "the time": (lambda bench: bench.more.update(created=NOON), {}, "mmmmm"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_made_again(bench: Bench, change: str) -> None:
    act, words, expected = CHANGES[change]
    bench.file("d/a", "a")
    bench.file("f", "f")
    assert bench.cached(TEXT) == "mmmmm"
    act(bench)
    text = TEXT
    for old, new in words.items():
        text = text.replace(old, new)
    assert bench.cached(text) == expected


def test_an_unused_argument_changes_nothing_before_a_run(bench: Bench) -> None:
    text = "FROM scratch\nARG V\nENV A=1\nLABEL x=$A"
    assert bench.cached(text) == "mm"
    assert bench.cached(text, build_args={"V": "9"}) == "cc"
    assert bench.cached(text.replace("$A", "$V"), build_args={"V": "9"}) == "cm"


def test_a_proxy_is_no_part_of_the_key(bench: Bench) -> None:
    text = "FROM scratch\nRUN echo $http_proxy > p"
    one = bench.build(text, build_args={"http_proxy": "one"})
    assert bench.cached(text, build_args={"http_proxy": "two"}) == "c"
    assert "one" not in json.dumps(one.config)


def test_another_base_is_another_build(bench: Bench) -> None:
    bench.base(a="1")
    text = "FROM base\nRUN true"
    assert (bench.cached(text), bench.cached(text)) == ("m", "c")
    bench.base(a="2")
    assert bench.cached(text) == "m"


def test_all_from_the_cache_is_the_same_image(bench: Bench) -> None:
    bench.file("d/a")
    bench.file("f")
    one = bench.build(TEXT)
    time.sleep(1.1)
    assert bench.build(TEXT).digest == one.digest


def test_the_same_files_and_time_make_the_same_image_in_another_store(tmp_path: Path) -> None:
    digests = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        bench = Bench(tmp_path / name)
        for file in ("b", "a", "d/x", "f")[:: 1 if name == "one" else -1]:
            bench.file(file, file)
        text = "FROM scratch\nWORKDIR /w\nCOPY . /x/\nRUN mkdir m; echo hi > m/r\nADD f /f"
        digests.add(bench.build(text, created=NOON + 5).digest)
        time.sleep(0.01)
    assert len(digests) == 1
    image = Image(bench.store, digests.pop())
    assert image.config["created"] == "2023-11-14T22:13:25Z"
    assert {row["created"] for row in history(image)} == {"2023-11-14T22:13:25Z"}


def test_layers_of_copy_are_the_same_whenever_they_are_made(bench: Bench) -> None:
    bench.file("d/a", "a")
    one = bench.build("FROM scratch\nCOPY d /x/y", cache=False)
    time.sleep(1.1)
    two = bench.build("FROM scratch\nCOPY d /x/y", cache=False)
    assert one.layers == two.layers
    assert one.digest != two.digest


def test_prune_takes_away_what_was_remembered_with_the_blobs(bench: Bench) -> None:
    bench.file("f", "f")
    text = "FROM scratch\nCOPY f /f\nRUN touch a"
    bench.build(text)
    # As long as the image has a name, its steps are remembered.
    assert prune(bench.store).steps == []
    assert bench.cached(text) == "cc"
    bench.store.untag("built")
    assert len(prune(bench.store, dry_run=True).steps) == 2
    assert len(prune(bench.store).steps) == 2
    assert os.listdir(f"{bench.store.root}/cache") == []
    assert bench.cached(text) == "mm"
    assert verify(bench.store) == []


def test_a_damaged_entry_and_a_missing_layer_are_no_hits(bench: Bench) -> None:
    text = "FROM scratch\nRUN touch a"
    image = bench.build(text)
    [entry] = Path(bench.store.root, "cache").iterdir()
    good = entry.read_text(encoding="ascii")
    for bad in ("", "[]", "{}", good.replace("sha256:", "sha256:../"), good[:-9]):
        entry.write_text(bad, encoding="ascii")
        assert bench.cached(text, tag="") == "m"
    os.unlink(bench.store.path(image.layers[0][1]))
    bench.build(text)
    assert verify(bench.store) == []


# ---- as it is used


@pytest.mark.parametrize("driver", ["overlay", "aufs", "vfs"])
@apart
def test_a_build_on_each_driver(driver: str, tmp_path: Path) -> None:
    if driver == "aufs" and not (os.path.exists("/dev/fuse") and find_spec("mfusepy")):
        pytest.skip("cannot: neither AUFS, nor FUSE with mfusepy")
    bench = Bench(tmp_path, driver)
    bench.base(etc="/", etc__old="old", bin="/")
    bench.file("a", "new")
    text = "FROM base\nRUN rm etc/old && mv bin sbin\nCOPY a /etc/\nRUN cat etc/a > b"
    image = bench.build(text)
    assert len(image.layers) == 4
    root = bench.driver.mount("c1", image.openers())
    assert sorted(os.listdir(root)) == ["b", "etc", "sbin"]
    assert os.listdir(f"{root}/etc") == ["a"]
    assert Path(root, "b").read_text(encoding="ascii") == "new"
    assert oct(os.stat(f"{root}/etc").st_mode) == "0o42750"
    assert os.listdir(f"{bench.store.root}/containers") == ["c1"]
    bench.driver.remove("c1")
    assert bench.store.root not in Path("/proc/self/mountinfo").read_text(encoding="ascii")
    assert bench.cached(text) == "ccc"


def test_commit_makes_a_container_an_image(bench: Bench) -> None:
    bench.base(a="a")
    base = Image(bench.store, bench.store.resolve("base"))
    bench.driver.prepare(base.openers())
    root = bench.driver.mount("c1", base.openers())
    Path(root, "b").write_text("b", encoding="ascii")
    os.unlink(f"{root}/a")
    (Path(bench.store.root) / "containers/c1/image").write_text(base.digest, encoding="ascii")
    changes = ['CMD ["/b"]', "ENV A=1 B=$A", "WORKDIR /w"]
    image = commit(bench.store, bench.driver, "c1", "mine", changes, created=NOON)
    assert bench.store.resolve("mine") == image.digest
    assert sorted(bench.rows(image)) == [".", ".wh.a", "b"]
    assert image.config["config"] == {"Cmd": ["/b"], "Env": ["A=1", "B="], "WorkingDir": "/w"}
    assert history(image)[-1]["created_by"].startswith("commit c1 CMD")
    assert verify(bench.store) == []
    for changes in (["RUN a"], ["COPY a b"], ["NOPE"], ["ENV"]):
        with pytest.raises(ValueError, match=f"^{changes[0]}: "):
            commit(bench.store, bench.driver, "c1", "mine", changes)
    for name in ("c2", "built"):
        with pytest.raises(FileNotFoundError, match="no container has this ID"):
            commit(bench.store, bench.driver, name)
    with pytest.raises(ValueError, match="not a container's name"):
        commit(bench.store, bench.driver, "../names")


def test_events_tell_step_by_step_and_stopping_to_listen_ends_the_build(bench: Bench) -> None:
    text = "# syntax=x\nFROM scratch\nRUN touch a\n"
    told = [(one.what, one.line, one.step, one.steps) for one in bench.events(text)]
    assert told == [
        *(("note", 1, 0, 2), ("step", 2, 1, 2), ("step", 3, 2, 2), ("made", 3, 2, 2)),
        ("built", 0, 2, 2),
    ]
    for one in build(bench.store, bench.driver, str(bench.context), run=bench.run, cache=False):
        if one.what == "step":
            break
    del one
    with bench.store.locked(shared=False):
        assert os.listdir(f"{bench.store.root}/containers") == []


def forked(work: Callable[[], object]) -> int:
    """Start a process that does one thing; it ends with 0 where that went well."""
    # clone3 of our own: os.fork() warns of the threads that pytest-xdist has.
    child = linux.clone3(0)
    if child:
        return child
    status = 1
    try:
        work()
        status = 0
    finally:
        os._exit(status)


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_100(work: Callable[[int], object], between: Callable[[int], object]) -> None:
    """Kill what does a thing at 100 random moments of it, and look after each."""
    started = time.monotonic()
    assert ended(forked(lambda: work(0))) == 0
    longest, killed, chance = time.monotonic() - started, 0, random.Random()
    for n in range(1000):
        pid = forked(lambda n=n: work(n))  # type: ignore[misc]
        time.sleep(chance.uniform(0, longest))
        os.kill(pid, signal.SIGKILL)
        if ended(pid) == -signal.SIGKILL:
            killed += 1
        else:
            longest *= 0.9  # it was quicker than the first, which other work may have held up
        between(n)
        if killed == 100:
            return
    raise AssertionError(f"killed {killed} times only")


@pytest.mark.once
def test_sigkill_of_a_commit_never_leaves_a_store_that_verify_rejects(bench: Bench) -> None:
    bench.base(a="a")
    base = Image(bench.store, bench.store.resolve("base"))
    bench.driver.prepare(base.openers())
    root = bench.driver.mount("c1", base.openers())
    for name in "bcd":
        Path(root, name).write_bytes(random.Random(4).randbytes(1 << 20))
    (Path(bench.store.root) / "containers/c1/image").write_text(base.digest, encoding="ascii")

    def work(n: int) -> None:
        mine = Store(bench.store.root)
        driver = storage.choose("vfs", mine.root)
        commit(mine, driver, "c1", f"mine{n % 3}", [f"LABEL n={n}"])

    def between(n: int) -> None:
        assert verify(bench.store) == []
        if n % 5 == 4:
            # Else most would find their layer there.
            for name in bench.store.names():
                if "mine" in name:
                    bench.store.untag(name)
            prune(bench.store)

    kill_100(work, between)
    prune(bench.store)
    assert os.listdir(f"{bench.store.root}/tmp") == []
    # The container is what it was, and becomes an image still.
    image = commit(bench.store, bench.driver, "c1", "last")
    assert sorted(bench.rows(image)) == [".", "b", "c", "d"]
    assert verify(bench.store) == []


@pytest.mark.once
def test_sigkill_never_leaves_a_store_that_verify_rejects(bench: Bench) -> None:
    bench.file("d/a", "a" * 300_000)
    bench.file("f", "f")

    def work(n: int) -> None:
        mine = Bench.__new__(Bench)
        mine.__dict__.update(bench.__dict__)
        mine.store = Store(bench.store.root)
        mine.driver = storage.choose("vfs", mine.store.root)
        text = f"FROM scratch\nLABEL n={n % 3}\nCOPY d /d\nRUN echo {n % 7} > r\nCOPY f /f\n"
        given: dict[str, Any] = {"run": by_shell, "tag": f"built{n % 2}", "cache": bool(n % 4)}
        name = f"{bench.context}/D{n % 7}"
        Path(name).write_text(text, encoding="ascii")
        for _ in build(mine.store, mine.driver, str(bench.context), name, **given):
            continue

    def between(n: int) -> None:
        assert verify(bench.store) == []
        if n % 10 == 9:
            sweep(bench.store, bench.driver)
            for name in bench.store.names():
                bench.store.untag(name)
            prune(bench.store)

    kill_100(work, between)
    sweep(bench.store, bench.driver)
    assert os.listdir(f"{bench.store.root}/containers") == []
    assert ended(forked(lambda: work(1))) == 0
    prune(bench.store)
    assert verify(bench.store) == []
    assert os.listdir(f"{bench.store.root}/tmp") == []
