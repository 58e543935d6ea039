#!/usr/bin/env python3
"""The fewest bytes any scheduler could have bought from the origin, computed from a schedule.

At each moment the origin must have given every byte of film that is due somewhere and that no
seed has; and what is due in all must have come from somebody's uplink, or from the origin's.
"""

from scenario import UPLOAD, rate

# How long a viewer may be kept waiting after it asked, s.
START_DELAY = 3.0
# The earliest that a newcomer can hold a piece to give away, s.
FIRST_PIECE = 0.2
STEP = 0.5


def curve(scenario, film, buffer_s):
    """(seconds, bytes) that must have left the origin by then; it never falls."""
    sessions = scenario.sessions
    leaves = [_leave(session, film.length_s) for session in sessions]
    plays = [_plays(session, leave) for session, leave in zip(sessions, leaves)]
    unit = film.rate * STEP
    seeds = scenario.seeds * rate(UPLOAD) / 8
    points, most, now = [], 0.0, 0.0
    while now <= max(leaves) + STEP:
        masks = [_due(of_one, now, film.length_s, buffer_s) for of_one in plays]
        unique = 0
        for mask in masks:
            unique |= mask
        due = sum(mask.bit_count() for mask in masks) * unit
        given = seeds * now + sum(
            rate(session.upload) / 8 * max(0.0, min(now, leave) - session.join - FIRST_PIECE)
            for session, leave in zip(sessions, leaves)
        )
        most = max(most, due - given, 0 if scenario.seeds else unique.bit_count() * unit)
        points.append((now, min(most, len(sessions) * len(film.data))))
        now += STEP
    return points


def _leave(session, length_s):
    return session.leave or session.join + START_DELAY + length_s


def _plays(session, leave):
    """(from, to, second of the film) of each run between seeks."""
    starts = [(session.join, 0.0), *session.seeks]
    ends = [at for at, _ in session.seeks] + [leave]
    return [(at, end, second) for (at, second), end in zip(starts, ends)]


def _due(plays, now, length_s, buffer_s):
    """The film's steps that are due by now, a bit each."""
    mask = 0
    for start, end, second in plays:
        played = min(now, end) - start - START_DELAY
        if played < 0:
            continue
        upto = min(second + buffer_s + played, length_s)
        first, last = int(second / STEP), int(upto / STEP)
        mask |= ((1 << max(0, last - first)) - 1) << first
    return mask
