"""The picture of two networks: straight, no wider than the page, and true to what was reported."""

import pytest
from rich.cells import cell_len

from labs.demo import picture
from labs.demo.picture import Link, Network, Networks

LO = Link(1, "lo", "", True, 0, 0, ["127.0.0.1/8"])
HOST = Network(
    "net:[1]",
    [
        LO,
        Link(2, "enp0s1", "", True, 0, 0, ["10.0.2.15/24"]),
        Link(3, "docker0", "bridge", False, 0, 0, ["172.17.0.1/16"]),
        Link(7, "labrun0", "bridge", True, 0, 0, ["10.88.0.1/24"]),
        Link(8, "lab2", "veth", True, 7, 2),
        Link(9, "lab3", "veth", True, 7, 4),
    ],
    "10.0.2.2",
    2,
)
INSIDE = Network(
    "net:[2]", [LO, Link(4, "eth0", "veth", True, 0, 9, ["10.88.0.3/24"])], "10.88.0.1", 4
)
WHOLE = Networks(HOST, INSIDE)


@pytest.mark.parametrize("spells", [True, False])
@pytest.mark.parametrize("width", [40, 60, 71, 72, 80, 120])
def test_each_line_fits_and_all_devices_are_there(width: int, spells: bool) -> None:
    lines = picture.draw(WHOLE, width, spells=spells)
    assert max(map(cell_len, lines)) <= width
    text = "\n".join(lines)
    for said in (
        "enp0s1",
        "via 10.0.2.2",
        "labrun0",
        "10.88.0.1/24",
        "lab3",
        "eth0",
        "via 10.88.0.1",
    ):
        assert said in text


def test_the_cable_is_one_line_from_the_bridge_to_eth0() -> None:
    (line,) = [line for line in picture.draw(WHOLE, 80) if "eth0" in line]
    assert "lab3 ─●─" in line
    assert "─┼─veth─┼─● eth0  10.88.0.3/24" in line
    assert "lab2" not in line
    assert {cell_len(line) for line in picture.draw(WHOLE, 80)} == {80}


@pytest.mark.parametrize("others", [0, 5, 12])
def test_the_cable_is_straight_whatever_else_is_inside(others: int) -> None:
    more = [Link(40 + n, f"dummy{n}", "dummy", True, 0, 0) for n in range(others)]
    inside = Network("net:[2]", [LO, *more, INSIDE.links[1]], "10.88.0.1", 4)
    (line,) = [line for line in picture.draw(Networks(HOST, inside), 80) if "eth0" in line]
    assert "lab3 ─●─" in line
    assert "─┼─veth─┼─● eth0  10.88.0.3/24" in line


def test_plain_it_has_no_line_that_ascii_lacks() -> None:
    assert "\n".join(picture.draw(WHOLE, 80, spells=False)).isascii()


def test_the_ends_of_a_cable_know_each_other() -> None:
    assert WHOLE.cable() == (HOST.links[5], INSIDE.links[1])
    # The same number in another network is another device.
    stranger = Link(4, "eth0", "veth", True, 0, 8, ["10.88.0.3/24"])
    assert Networks(HOST, Network("net:[2]", [LO, stranger])).cable() is None


def test_without_a_cable_none_is_drawn() -> None:
    alone = picture.draw(Networks(HOST, Network("net:[2]", [LO])), 80)
    assert "veth" not in "\n".join(alone)
    assert "lo  127.0.0.1/8" in "\n".join(alone)


def test_one_network_is_one_frame() -> None:
    text = "\n".join(picture.draw(Networks(HOST, HOST), 80))
    assert "host = container · net:[1]" in text
    assert text.count("┌") == 1


def test_what_is_down_says_so_and_too_many_devices_are_counted() -> None:
    assert "docker0  172.17.0.1/16  (down)" in "\n".join(picture.draw(WHOLE, 80))
    many = [Link(20 + n, f"vpn{n}", "", True, 0, 0, [f"10.9.{n}.1/24"]) for n in range(9)]
    crowd = Network("net:[1]", [*HOST.links, *many], "10.0.2.2", 2)
    text = "\n".join(picture.draw(Networks(crowd, INSIDE), 80))
    assert "… 9 more" in text or "… 8 more" in text
    assert len(picture.draw(Networks(crowd, INSIDE), 80)) < 18
