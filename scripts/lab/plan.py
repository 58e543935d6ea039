#!/usr/bin/env python3
"""The federation: who publishes what with which trackers, who plays it when, what dies when."""

from dataclasses import dataclass

FILM_S, FILM_OF_TWO_S = 40, 60
# 10.77.0.x; viewers follow each other. In multiples of the film's rate: a viewer's way up, its way
# down, a site's way up.
SITES = {"a": 20, "b": 21, "c": 22}
TRACKERS = {"t1": 30, "t2": 31, "ot": 32}
VIEWERS, VIEWER_BYTE = 6, 10
UPLOAD, DOWNLOAD, SITE = 5.0, 15.0, 7.5

# How each site tells where its torrents are.
TORRENTS = {"a": "beside", "b": "link", "c": "registry"}
# Each film, the sites that have it, and the trackers that each of them names. The last one is
# published by two sites, by each in its own words: one info-hash, so one swarm with two origins. It
# is the longest, so that its viewers still lack some of it when the second site dies.
FILMS = {
    "a1": {"a": ("t1", "ot")},
    "a2": {"a": ("t2", "t1")},
    "b1": {"b": ("ot/udp", "t2")},
    "b2": {"b": ("t1",)},
    "c1": {"c": ("t2", "t1")},
    "c2": {"c": ("ot", "t2")},
    "ab": {"a": ("t1", "ot"), "b": ("t2", "ot")},
}


@dataclass
class Play:
    at: float
    viewer: int
    film: str
    site: str
    # Trackers that stand in the address.
    chain: tuple
    # Others have seen the whole film.
    seen: bool = False


@dataclass
class Fault:
    """`server` is killed at this second and started again after `lasts_s`."""

    server: str
    at: float
    # Not the program alone: what is sent there is not refused but lost.
    with_host: bool = False
    lasts_s: float = 7.0


# A dead tracker costs nothing at any time: while each of them is dead films begin that name it.
# A dead site costs nothing to who plays what others have, viewers or the other site, and has begun
# before; or to who begins then with a film whose torrent a registry knows. So what is played when a
# site dies was played by others, all but `ab`, which its two viewers have from two sites alone.
PLAYS = [
    Play(0.0, 0, "a1", "a", ()),
    Play(0.4, 1, "a2", "a", ("t1",)),
    Play(0.8, 2, "b1", "b", ("t2", "ot")),
    Play(1.2, 3, "b2", "b", ()),
    Play(1.6, 4, "c1", "c", ("t2", "t1")),
    Play(2.0, 5, "c2", "c", ("t2",)),
    # t1 is dead.
    Play(8.0, 3, "a1", "a", ("t1",)),
    Play(9.0, 2, "c1", "c", ("t1", "t2")),
    # t2 is dead.
    Play(18.0, 5, "b1", "b", ()),
    Play(19.0, 0, "c1", "c", ("t2", "t1")),
    # opentracker is dead.
    Play(28.0, 1, "c2", "c", ("ot", "t2")),
    Play(29.0, 4, "a1", "a", ("ot",)),
    # Soon site a dies.
    Play(40.0, 2, "a1", "a", ("t1", "ot"), True),
    Play(40.5, 5, "a2", "a", (), True),
    Play(42.0, 0, "ab", "a", ("t1", "ot")),
    Play(42.5, 3, "ab", "b", ()),
    # Soon site b dies.
    Play(52.0, 0, "b1", "b", ("t2",), True),
    Play(52.5, 1, "b2", "b", ("t1", "t2", "ot"), True),
    Play(53.0, 4, "b2", "b", (), True),
    # Site b is dead.
    Play(60.0, 3, "b1", "b", ("t2",), True),
    # Soon site c dies.
    Play(64.0, 3, "c1", "c", ("t1",), True),
    Play(65.5, 2, "c2", "c", ("t2",), True),
    Play(66.0, 4, "c2", "c", ("ot", "t2"), True),
]

FAULTS = [
    Fault("t1", 6.0), Fault("t2", 16.0, with_host=True), Fault("ot", 26.0),
    Fault("a", 44.0, lasts_s=9.0), Fault("b", 56.0, lasts_s=9.0),
    Fault("c", 68.0, with_host=True, lasts_s=9.0),
]


def length_s(film):
    return FILM_OF_TWO_S if len(FILMS[film]) > 1 else FILM_S


def names(play):
    """The trackers that a play has to do with."""
    named = FILMS[play.film][play.site] + play.chain
    return {name.partition("/")[0] for name in named}


def touches(fault, play):
    return fault.server in names(play) or fault.server in FILMS[play.film]
