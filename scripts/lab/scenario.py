#!/usr/bin/env python3
"""The schedules: who joins when, over what link, where they seek, when they leave, what breaks."""

import random
from dataclasses import dataclass, field

from film import BITRATE

# Links as multiples of the film's bitrate.
UPLOAD = 1.2
DOWNLOAD = 4.0
ORIGIN = 15.0

NAMES = {
    "N1": "one viewer alone, beside plain HTTP",
    "S1": "flash crowd: all join within 2 s",
    "S2": "staggered: one joins every 5 s, each leaves at the end",
    "S3": "starved flash crowd: half upload 0.15 of the bitrate, half 1.05",
    "S4": "churn: sessions of 40 s on average, killed, replaced after 0.5 s",
    "S5": "seeks: staggered, 2 seeds, a seek every 40 s on average",
    "S6a": "flash crowd with 25 % free riders",
    "S6b": "staggered with 25 % free riders",
    "S7a": "staggered, origin down from 60 s to 90 s",
    "S7b": "staggered, origin answers after 3 s from 60 s on",
    "S8": "staggered, one peer poisons every 8th block",
}


@dataclass
class Session:
    """One viewer from joining to leaving; times in seconds since the run began."""

    slot: int
    join: float
    upload: float = UPLOAD
    # Leaves then; else when the film has been played.
    leave: float | None = None
    killed: bool = False
    rider: bool = False
    # (time, second of the film)
    seeks: list = field(default_factory=list)


@dataclass
class Scenario:
    name: str
    sessions: list
    seeds: int = 0
    poisoners: int = 0
    # (time, what to tell the relay before the origin)
    origin_events: list = field(default_factory=list)


def expand(names):
    """`S6` stands for S6a and S6b, and so on."""
    found = []
    for name in names:
        match = [known for known in NAMES if known == name or known[:-1] == name]
        if not match:
            raise ValueError(f"{name}: no such scenario; there are {' '.join(NAMES)}")
        found += match
    return found


def draw(name, seed, viewers, length_s):
    """The schedule of one run; `viewers` replaces the scenario's own number."""
    rng = random.Random(f"{name[:2]} {seed}")
    if name == "N1":
        return Scenario(name, [Session(0, 0.0)])
    if name in ("S1", "S3", "S6a"):
        sessions = [Session(slot, rng.uniform(0, 2)) for slot in range(viewers or 24)]
    elif name == "S4":
        sessions = _churn(rng, viewers or 24, length_s)
    else:
        count = viewers or (24 if name == "S5" else 30)
        sessions = [Session(slot, 5.0 * slot) for slot in range(count)]
    sessions.sort(key=lambda session: session.join)
    scenario = Scenario(name, sessions)
    if name == "S3":
        for nth, session in enumerate(rng.sample(sessions, len(sessions))):
            session.upload = 0.15 if nth % 2 else 1.05
    elif name == "S5":
        scenario.seeds = 2
        for session in sessions:
            _seek_about(rng, session, length_s)
    elif name.startswith("S6"):
        # The first is honest: it is the only one that has anything to give at first.
        for session in rng.sample(sessions[1:], len(sessions) // 4):
            session.rider, session.upload = True, 0.0
    elif name == "S7a":
        scenario.origin_events = [(60.0, "down"), (90.0, "up")]
    elif name == "S7b":
        scenario.origin_events = [(60.0, "delay 3")]
    elif name == "S8":
        scenario.poisoners = 1
    return scenario


def _churn(rng, slots, length_s, run_s=300.0):
    sessions = []
    for slot in range(slots):
        join = rng.uniform(0, 2)
        while join < run_s:
            # Nobody stays for long after the end.
            stay = min(max(5.0, rng.expovariate(1 / 40)), length_s + 3.0)
            leave = min(join + stay, run_s)
            sessions.append(Session(slot, join, leave=leave, killed=True))
            join = leave + 0.5
    return sessions


def _seek_about(rng, session, length_s):
    session.leave = session.join + length_s
    at = session.join
    while (at := at + 10 + rng.expovariate(1 / 30)) < session.leave - 5:
        session.seeks.append((at, rng.uniform(0, length_s - 10)))


def rate(multiple):
    """Bit/s."""
    return int(multiple * BITRATE)
