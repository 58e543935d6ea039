#!/usr/bin/env python3
"""What is asked of a federation, held against what its players saw; and the table of it."""

import plan

# Of each player, s.
STALL_MAX_S, START_MAX_S = 1.0, 4.0
# Of a film that others have seen whole, what comes from them.
PEERS_MIN = 0.5
# A site dies in time if some of its players still lack so much of their films.
LACK_MIN = 0.2
# What the other site of a film sends meanwhile, bytes.
OTHER_MIN = 100_000
# Announces that each tracker hears before it dies, and after.
HEARD_MIN = 2
# If the machine did other things for so long, s, a run shows nothing.
HELD_UP_MAX_S = 5.0


def table(run):
    head = ("player", "film", "by way of", "joined", "start", "longest stall", "right bytes",
            "from peers", "dead meanwhile")
    rows = [head, *(row(run, showing) for showing in run.showings)]
    widths = [max(len(line[column]) for line in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
             for line in rows]
    return "\n".join(lines)


def row(run, showing):
    play, log = showing.play, showing.player.log
    began, stalled = start_s(run, showing), [length for _, length, _ in stalls(run, showing)]
    start = "never" if began is None else f"{began:.2f} s"
    stall = f"{max(stalled):.2f} s" if stalled else "none"
    right = (log["bytes"] - log["wrong_bytes"]) / len(showing.player.film.data)
    dead = [f"{fault.server}{'*' * began_in(run, fault, showing)}" for fault in plan.FAULTS
            if plan.touches(fault, play) and met(run, fault, showing)]
    return (f"viewer {play.viewer}", f"{play.film} at {play.site}", " ".join(play.chain) or "-",
            f"{log['join']:.1f} s", start, stall, f"{right:.2%}", f"{showing.share:.0%}",
            " ".join(dead) or "-")


def start_s(run, showing):
    log = showing.player.log
    if log["start_s"] is not None:
        return log["start_s"] - run.held_up(log["join"], log["join"] + log["start_s"])
    return None


def stalls(run, showing):
    """(begun, length, bytes there) of each."""
    for begun, length, at in showing.player.log["stalls"]:
        length -= run.held_up(begun, begun + length)
        if length > 0:
            yield begun, length, at


def met(run, fault, showing):
    begun, ended = run.down[fault.server]
    joined, left = showing.span
    return joined < ended and begun < left


def began_in(run, fault, showing):
    begun, ended = run.down[fault.server]
    return begun <= showing.span[0] < ended


def faults(run):
    lines = []
    for fault in plan.FAULTS:
        begun, ended = run.down[fault.server]
        line = f"{fault.server} was dead from {begun:.1f} s to {ended:.1f} s; "
        if fault.server in run.trackers:
            before, after = run.heard[fault.server]
            line += (f"announces by http and udp: {before[0]} and {before[1]} before, "
                     f"{after[0]} and {after[1]} after")
        else:
            lacking = [f"{who} {share:.0%}" for who, share in run.lacking[fault.server].items()]
            line += "players in the midst, and what their stubs lacked: " + ", ".join(lacking)
            if fault.server in plan.FILMS["ab"]:
                line += f"; the other site then sent {from_other(run, fault):,} bytes of ab"
        lines.append(line)
    return "\n".join(lines)


def from_other(run, fault):
    begun, ended = (run.epoch + at for at in run.down[fault.server])
    others = [run.sites[site] for site in plan.FILMS["ab"] if site != fault.server]
    return sum(site.sent("ab", begun, ended) for site in others)


def failures(run):
    """Sentences, none if all is well."""
    found = []
    for showing in run.showings:
        who = f"viewer {showing.play.viewer} with {showing.play.film} at {showing.play.site}"
        found += [f"{who}: {what}" for what in of_player(run, showing)]
    for fault in plan.FAULTS:
        found += [f"{fault.server}: {what}" for what in of_fault(run, fault)]
    for film, sites in plan.FILMS.items():
        if not any(showing.share for showing in run.showings if showing.play.film == film):
            found.append(f"{film}: nobody had a byte of it from a peer")
    if run.held_up() > HELD_UP_MAX_S:
        found.append("this machine is too busy: whatever was found, the stubs need not have done it")
    return found


def of_player(run, showing):
    log, size = showing.player.log, len(showing.player.film.data)
    began = start_s(run, showing)
    if began is None or began > START_MAX_S:
        yield f"did not start within {START_MAX_S:.0f} s"
    for begun, length, at in stalls(run, showing):
        if length > STALL_MAX_S:
            yield f"stalled for {length:.2f} s at {begun:.1f} s, with {at / size:.0%} of the film"
    if log["errors"]:
        at, why = log["errors"][0]
        yield f"was let down at {at:.1f} s ({len(log['errors'])} times in all): {why}"
    if log["wrong_bytes"]:
        yield f"{log['wrong_bytes']} wrong bytes"
    if log["bytes"] != size:
        yield f"got {log['bytes']} bytes of {size}"
    if showing.play.seen and showing.share < PEERS_MIN:
        yield f"had only {showing.share:.0%} from peers, although others had the film"


def of_fault(run, fault):
    """Whether it was one."""
    if fault.server in run.trackers:
        if not any(began_in(run, fault, showing) and plan.touches(fault, showing.play)
                   for showing in run.showings):
            yield "nobody began a film of it while it was dead"
        for when, heard in zip(("before its death", "after it"), run.heard[fault.server]):
            if sum(heard) < HEARD_MIN:
                yield f"heard only {sum(heard)} announces {when}"
        return
    lacking = run.lacking[fault.server].values()
    if sum(lack > LACK_MIN for lack in lacking) < 2:
        yield "when it died, fewer than two of its players still lacked much of their films"
    if fault.server in plan.FILMS["ab"] and from_other(run, fault) < OTHER_MIN:
        yield "while it was dead the other site sent next to nothing of the film of both"
