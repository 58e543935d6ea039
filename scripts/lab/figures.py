#!/usr/bin/env python3
"""What a run comes to: the origin's log and the players' clocks, and the viewers' own counters
beside them for what only these can tell (causes, duplicates)."""

# A run in which the machine had this much to do measures the machine.
BUSY = 0.9
BUSY_SECONDS_MAX = 0.05


def of_run(run):
    """The figures of one run, by name; None where there is nothing to count."""
    size, clients = run["film_bytes"], run["clients"]
    origin = sum(send[2] for send in run["sends"])
    played = [c for c in clients if c["bytes"]]
    delivered = sum(c["bytes"] for c in clients)
    others = [c for c in clients if not c["rider"]]
    stalls = [stall for c in others for stall in c["stalls"]]
    starts = [c["start_s"] for c in clients if c["start_s"] is not None]
    # A start that never came, though the viewer was there for long, is the longest of all.
    starts += [c["left"] - c["join"] for c in clients if c["unstarted"] and not c["killed"]]
    cold = [s for c in clients for s in c["seeks"] if not s["cached"] and s["took_s"] is not None]
    bound = run["bound"][-1][1]
    figures = {
        "copies": origin / size,
        "bound": bound / size,
        "ratio": origin / bound if bound else None,
        "offload": 1 - origin / delivered if delivered else None,
        "stall_total_s": sum(stall[1] for stall in stalls),
        "stall_max_s": max((stall[1] for stall in stalls), default=0.0),
        "stall_share": _share(
            sum(stall[1] for stall in stalls), sum(c["played_s"] for c in others)),
        "stalled": sum(bool(c["stalls"]) for c in others),
        "viewers": len(clients),
        "unstarted": sum(c["unstarted"] and not c["killed"] for c in played or clients),
        "start_p50_s": quantile(starts, 0.5),
        "start_p95_s": quantile(starts, 0.95),
        "seek_p50_s": quantile([s["took_s"] for s in cold], 0.5),
        "seek_p95_s": quantile([s["took_s"] for s in cold], 0.95),
        "seeks_cold": len(cold),
        "wrong_bytes": sum(c["wrong_bytes"] for c in clients),
        "errors": sum(len(c["errors"]) for c in clients),
        "died": sum(c["died"] for c in clients),
        "needless_stall_s": _needless(run, others),
        "origin_peak": _peak(run),
        "cpu": sum(run["cpu"]) / max(1, len(run["cpu"])),
        "cpu_own": run["cpu_own"],
        "cpu_full": _share(sum(mark > BUSY for mark in run["cpu"]), len(run["cpu"])),
        "plain_start_s": run["plain_start_s"],
        "start_added_s": None,
        "added_bound": (bound - run["bound_honest"]) / size,
        "poison_banned": None,
    }
    if run["plain_start_s"] is not None and starts:
        figures["start_added_s"] = starts[0] - run["plain_start_s"]
    figures.update(_from_stubs(run))
    figures["saturated"] = figures["cpu_full"] > BUSY_SECONDS_MAX
    return figures


def _from_stubs(run):
    """The viewers' own counters; those of a viewer that could not be asked are missing."""
    stats = [c["stub"] for c in run["clients"] if c["stub"] and "bytes" in c["stub"]]
    size = run["film_bytes"]
    causes = {}
    for one in stats:
        for cause, count in one["origin_bytes_by_cause"].items():
            causes[cause] = causes.get(cause, 0) + count
    got = sum(one["bytes"]["from_peers"] + one["bytes"]["from_origin"] for one in stats)
    wasted = sum(one["bytes"]["wasted"] for one in stats)
    found = {
        "causes": {cause: count / size for cause, count in sorted(causes.items())},
        "told": sum(causes.values()) / size,
        "duplicates": _share(wasted, got - wasted) if got else None,
        "asked": len(stats),
    }
    if run["poisoner"] is not None:
        found["poison_banned"] = sum(one.get("peers_banned", 0) for one in stats)
        found["poison_calls"] = run["poisoner"].get("connections", 0)
        found["poison_met"] = len(run["poisoner"].get("addresses", []))
        found["poison_lies"] = run["poisoner"].get("lies", 0)
    return found


def _needless(run, others):
    """Stall seconds for bytes that another viewer, still there, had played from before."""
    total = 0.0
    for client in others:
        for at, took, byte in client["stalls"]:
            for mate in run["clients"]:
                if mate is client or mate["left"] < at:
                    continue
                if any(t < at and a <= byte < b for t, a, b in mate["reads"]):
                    total += took
                    break
    return total


def _peak(run):
    """The most that left the origin in a second, as multiples of the bitrate."""
    seconds = {}
    for began, ended, count, _ in run["sends"]:
        spread(seconds, began, ended, count)
    return max(seconds.values(), default=0) / run["rate"]


def spread(seconds, began, ended, count):
    """Adds an answer's bytes evenly to the seconds it took."""
    # An answer may have taken less than a millisecond.
    length = max(ended - began, 1e-3)
    ended = began + length
    first, last = int(began), int(ended)
    for second in range(first, last + 1):
        inside = min(ended, second + 1) - max(began, second)
        seconds[second] = seconds.get(second, 0) + count * max(inside, 0) / length


def origin_curve(run):
    """(second, copies of the film that have left the origin), each second."""
    seconds, total, points = {}, 0.0, []
    for began, ended, count, _ in run["sends"]:
        spread(seconds, began, ended, count)
    for second in range(int(end_s(run)) + 1):
        points.append((second, total / run["film_bytes"]))
        total += seconds.get(second, 0)
    return points + [(end_s(run), total / run["film_bytes"])]


def stall_curve(run):
    """(second, seconds that viewers have stood still, all together)."""
    stalls = [(at, took) for c in run["clients"] if not c["rider"] for at, took, _ in c["stalls"]]
    end = end_s(run)
    times = [second for second in range(int(end) + 1)] + [end]
    return [(t, sum(min(max(t - at, 0), took) for at, took in stalls)) for t in times]


def end_s(run):
    return max(client["left"] for client in run["clients"])


def quantile(values, share):
    """The least value that so many of them do not exceed."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[max(0, -int(-len(ordered) * share // 1) - 1)]


def median(values):
    """Of those that are there; None if none is."""
    there = sorted(value for value in values if value is not None)
    if not there:
        return None
    middle = len(there) // 2
    return there[middle] if len(there) % 2 else (there[middle - 1] + there[middle]) / 2


def _share(part, whole):
    return part / whole if whole else 0.0
