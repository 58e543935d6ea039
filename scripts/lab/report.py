#!/usr/bin/env python3
"""The results as people read them: one table as text, the README with it, a plot a scenario."""

import json
from pathlib import Path

import figures
import plot
import scenario as scenarios
import target

COLUMNS = (
    ("scenario", 9), ("n", 4), ("copies (range)", 20), ("bound", 6), ("ratio", 6),
    ("offload", 8), ("stalls s: sum", 14), ("longest", 8), ("viewers", 8), ("start p50", 10),
    ("p95 s", 6), ("seek p95", 9), ("dupl.", 6), ("wrong", 6), ("CPU", 5), ("own", 5),
)


def write(folder, facts, runs):
    """`facts`: (name, value) of machine and command; `runs`: raw results by scenario."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    counted = {name: [figures.of_run(run) for run in of] for name, of in runs.items()}
    text = table(counted)
    (folder / "table.txt").write_text(text)
    with (folder / "runs.jsonl").open("w") as file:
        for name, of in runs.items():
            for run, figure in zip(of, counted[name]):
                file.write(json.dumps({"scenario": name, "seed": run["seed"], **_short(figure)}))
                file.write("\n")
    with (folder / "clients.jsonl").open("w") as file:
        for name, of in runs.items():
            for run in of:
                for client in run["clients"]:
                    file.write(json.dumps(_client(name, run, client)) + "\n")
    for name, of in runs.items():
        title = f"{name}: {scenarios.NAMES[name]}"
        (folder / f"{name}.svg").write_text(plot.scenario(title, of))
    (folder / "README.md").write_text(readme(facts, text, counted))
    return text


def table(counted):
    lines = ["".join(name.rjust(width) for name, width in COLUMNS)]
    lines += [_row(name, of) for name, of in counted.items()]
    lines.append("")
    for name, of in counted.items():
        for what, value, met in target.judge(name, of, _baseline(name, counted)):
            lines.append(f"{name:4} {'met   ' if met else 'MISSED'}  {what}: {value}")
    lines.append("")
    for name, of in counted.items():
        causes = sorted({cause for figure in of for cause in figure["causes"]})
        told = ", ".join(
            f"{cause} {figures.median([f['causes'].get(cause, 0) for f in of]):.2f}"
            for cause in causes)
        if told:
            total = figures.median([figure["told"] for figure in of])
            lines.append(f"{name:4} copies by cause, as the viewers say: {told}; sum {total:.2f}")
    full = [f"{name} seed {nth + 1} ({figure['cpu_full']:.0%} of it)"
            for name, of in counted.items() for nth, figure in enumerate(of) if figure["saturated"]]
    if full:
        lines += ["", "The cores were over 90 % busy, so the machine was measured too: "
                  + ", ".join(full)]
    dead = [f"{name}: {sum(f['died'] for f in of)} stubs died"
            for name, of in counted.items() if any(f["died"] for f in of)]
    return "\n".join(lines + dead) + "\n"


def _row(name, of):
    mid = lambda figure: figures.median([run[figure] for run in of])
    show = lambda value, shape: "-" if value is None else shape.format(value)
    copies = [run["copies"] for run in of]
    spread = f"{mid('copies'):.2f} ({min(copies):.2f}-{max(copies):.2f})"
    cells = (
        name, str(of[0]["viewers"]), spread, f"{mid('bound'):.2f}", show(mid("ratio"), "{:.2f}"),
        show(mid("offload"), "{:.1%}"), f"{mid('stall_total_s'):.1f}",
        f"{mid('stall_max_s'):.1f}", f"{mid('stalled'):.0f}",
        show(mid("start_p50_s"), "{:.2f}"), show(mid("start_p95_s"), "{:.2f}"),
        show(mid("seek_p95_s"), "{:.2f}"), show(mid("duplicates"), "{:.1%}"),
        f"{max(run['wrong_bytes'] for run in of)}", f"{mid('cpu'):.0%}",
        f"{mid('cpu_own'):.0%}",
    )
    return "".join(cell.rjust(width) for cell, (_, width) in zip(cells, COLUMNS))


def readme(facts, text, counted):
    lines = ["# The lab", "", ABOUT.strip(), "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts]
    lines += ["", "```", text.rstrip(), "```", ""]
    for name in counted:
        lines += [f"## {name}: {scenarios.NAMES[name]}", "", f"![{name}]({name}.svg)", ""]
    return "\n".join(lines)


ABOUT = """
BitTube's own binary on many hosts of one machine, each a network namespace with a limited link;
nginx as the origin at 30 Mbit/s and opentracker beside it; players that read by the clock and
compare every byte. A film of 2 Mbit/s in pieces of 128 KiB; viewers' links carry 2.4 Mbit/s up
and 8 Mbit/s down unless the scenario says otherwise.

Copies are the origin's bytes, by its own log, over the film's length; the bound is the least that
any scheduler could have bought with this schedule; a stall is counted by the player's clock. A
start or seek ends when 2 s of film are there; seeks count where the viewer's store had nothing at
the target. Duplicates and causes are the viewers' own counters. CPU is how busy all cores were,
own what of that was the lab's. Medians of the seeds; every seed is a line in the plots.

Requests to the origin take 20 ms; between viewers there is no delay but the links' own queues, for
want of netem. What leaves a host waits in a queue for each receiver, which take turns (htb); what
comes to a viewer passes one tbf. TCP is reno. A free rider chokes all. `runs.jsonl` holds the
figures of each run, `clients.jsonl` each viewer's events.
"""


def _baseline(name, counted):
    return counted.get({"S6a": "S1", "S6b": "S2"}.get(name))


def _short(figure):
    return {key: round(value, 4) if isinstance(value, float) else value
            for key, value in figure.items()}


def _client(name, run, client):
    keep = ("viewer", "join", "left", "start_s", "first_byte_s", "stalls", "seeks", "errors",
            "bytes", "wrong_bytes", "played_s", "rider", "killed", "upload")
    line = {"scenario": name, "seed": run["seed"], **{key: client[key] for key in keep}}
    return json.loads(json.dumps(line), parse_float=lambda text: round(float(text), 3))
