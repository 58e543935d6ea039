#!/usr/bin/env python3
"""The figures to be met, scenario by scenario, judged on the median of the seeds."""

from figures import median


def judge(name, runs, baseline):
    """(what is asked, what was found, met) of each target; `runs` are figures, one a seed, and
    `baseline` the figures of the same crowd without free riders, if that was run as well."""
    mid = lambda figure: median([run[figure] for run in runs])
    found = []

    def below(what, figure, limit, shape="{:.2f}"):
        value = mid(figure)
        if value is not None:
            found.append((what, shape.format(value), value <= limit))

    if name == "S1":
        below("origin ≤ 2.0 × bound", "ratio", 2.0)
        below("no stall > 1 s", "stall_max_s", 1.0, "{:.1f} s")
        below("start p95 ≤ 4 s", "start_p95_s", 4.0, "{:.2f} s")
    elif name == "S2":
        below("≤ 3.0 copies", "copies", 3.0)
        below("start p95 ≤ 2 s", "start_p95_s", 2.0, "{:.2f} s")
        below("0 stalls", "stall_total_s", 0.0, "{:.1f} s")
    elif name == "S3":
        below("origin ≤ 1.25 × bound", "ratio", 1.25)
        below("stalls ≤ 1 % of play", "stall_share", 0.01, "{:.1%}")
    elif name == "S4":
        offload = mid("offload")
        found.append(("offload ≥ 83 %", f"{offload:.1%}", offload >= 0.83))
        below("no stall > 1 s", "stall_max_s", 1.0, "{:.1f} s")
    elif name == "S5":
        below("seek p95 ≤ 1.5 s", "seek_p95_s", 1.5, "{:.2f} s")
        below("≤ 2 copies", "copies", 2.0)
    elif name.startswith("S6"):
        below("others: 0 stalls", "stall_total_s", 0.0, "{:.1f} s")
        if baseline:
            added = mid("copies") - median([run["copies"] for run in baseline])
            limit = 1.2 * mid("added_bound")
            what = f"origin's addition ≤ {limit:.2f} copies"
            found.append((what, f"{added:.2f}", added <= limit))
    elif name.startswith("S7"):
        below("no stall where another viewer has it", "needless_stall_s", 0.0, "{:.1f} s")
    elif name == "S8":
        # Who banned it does not come back.
        met, calls = mid("poison_met"), mid("poison_calls")
        if met is not None:
            shown = f"{met:.0f} viewers met it in {calls:.0f} connections"
            found.append(("banned by all who met it", shown, 0 < met >= calls))
        below("no wrong byte", "wrong_bytes", 0, "{:.0f}")
    elif name == "N1":
        copies = mid("copies")
        # One block of 16 KiB may come twice.
        found.append(("the film once", f"{copies:.4f} copies", abs(copies - 1) < 0.0008))
        below("start ≤ 50 ms over plain HTTP", "start_added_s", 0.05, "{:.3f} s")
    below("duplicates ≤ 2 %", "duplicates", 0.02, "{:.1%}")
    if name != "S8":
        below("no wrong byte", "wrong_bytes", 0, "{:.0f}")
    return found
