#!/usr/bin/env python3
"""The lab's command line: which scenarios and seeds, one run after another, then the report."""

import argparse
import hashlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import figures
import report
import scenario as scenarios
from apart import run_apart

ROOT = Path(__file__).resolve().parents[2]
# Without anything else being said, and of a change that is tried.
LENGTH_S, QUICK_LENGTH_S = 180, 90
SEEDS, QUICK_SEEDS = 5, 1
QUICK = ["S1", "S2", "S5"]
ALL = ["N1", "S1", "S2", "S3", "S4", "S5", "S6", "S7", "S8"]
VIEWERS_MAX = 60
RUN_MAX_S = 1800


def read_words():
    words = argparse.ArgumentParser(
        prog="scripts/lab.sh",
        description="Many viewers on links of their own, an origin, a tracker: what leaves the "
        "origin, who stalls. A whole run is kept in bench-results/, any other in target/lab/.")
    words.add_argument("--quick", action="store_true",
                       help="S1, S2 and S5 with a film of 90 s, one seed")
    words.add_argument("--scenario", metavar="S1[,S2…]", help=" ".join(scenarios.NAMES))
    words.add_argument("--viewers", type=int, metavar="N", help="instead of the scenario's own")
    words.add_argument("--seeds", type=int, metavar="N", help=f"runs of each [{SEEDS}]")
    words.add_argument("--first-seed", type=int, default=1, metavar="N")
    words.add_argument("--length", type=int, metavar="S", help=f"of the film [{LENGTH_S}]")
    words.add_argument("--policy", default="hybrid", metavar="NAME",
                       help="an --origin-policy of `bittube`; http: no BitTube at all; rqbit: "
                       "rqbit 9.1 in its place, and a seed in the origin's")
    words.add_argument("--without", default="", metavar="WORD[,WORD…]",
                       help="part of the policy that is left out, or another's rule in its place: "
                       "no-rank, no-inject, no-hedge, sequential, rarest, fallback, web-seed, "
                       "client-server")
    words.add_argument("--log", metavar="FILTER",
                       help="what the viewers log; all logs are then kept in target/lab/logs/")
    words.add_argument("--keep", action="store_true", help="in bench-results/, whatever was run")
    words.add_argument("--resume", metavar="FOLDER",
                       help="each run's result is kept there, and a run whose result is there "
                       "already is not made again: all of them take hours")
    words.add_argument("--binary", help=argparse.SUPPRESS)
    words.add_argument("--rqbit", help=argparse.SUPPRESS)
    words.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    given = words.parse_args()
    try:
        names = given.scenario.split(",") if given.scenario else QUICK if given.quick else ALL
        given.names = scenarios.expand(names)
    except ValueError as error:
        words.error(str(error))
    if given.policy == "rqbit" and {"S5", "S8"} & set(given.names):
        words.error("--policy rqbit: S5 and S8 have peers that are not rqbit")
    if given.viewers is not None and not 1 <= given.viewers <= VIEWERS_MAX:
        words.error(f"--viewers: 1 to {VIEWERS_MAX}")
    given.whole = not (given.quick or given.scenario or given.viewers or given.length)
    given.length = given.length or (QUICK_LENGTH_S if given.quick else LENGTH_S)
    if not 20 <= given.length <= 600:
        words.error("--length: 20 to 600 s")
    given.seeds = given.seeds or (QUICK_SEEDS if given.quick else SEEDS)
    return given


def main():
    given = read_words()
    if given.check:
        return
    runs = {}
    with tempfile.TemporaryDirectory(prefix="bittube-lab-") as folder:
        for seed in range(given.first_seed, given.first_seed + given.seeds):
            for name in given.names:
                result = recall(given, name, seed)
                if result is None:
                    result = play(given, name, seed, Path(folder) / "result.json")
                    keep(given, name, seed, result)
                runs.setdefault(name, []).append(result)
                tell(name, seed, figures.of_run(result))
        out = place(given)
        runs = {name: runs[name] for name in given.names}
        print("\n" + report.write(out, facts(given), runs))
        print(f"kept in {os.path.relpath(out)}")


def recall(given, name, seed):
    """The result of an earlier call, if it was made of the same."""
    path = given.resume and Path(given.resume) / f"{name}-{seed}.json"
    if not path or not path.exists():
        return None
    kept = json.loads(path.read_text())
    if kept["made_of"] != made_of(given):
        sys.exit(f"lab.sh: {path} was made with {kept['made_of']}, not {made_of(given)}")
    return kept["result"]


def keep(given, name, seed, result):
    if given.resume:
        path = Path(given.resume) / f"{name}-{seed}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.with_suffix(".new")
        whole.write_text(json.dumps({"made_of": made_of(given), "result": result}))
        whole.replace(path)


def made_of(given):
    build = hashlib.sha256(Path(given.binary).read_bytes()).hexdigest()
    return {"viewers": given.viewers, "length": given.length, "policy": given.policy,
            "left out": given.without, "build": build}


def play(given, name, seed, out):
    """One run, in namespaces that end with it."""
    options = {
        "scenario": name, "seed": seed, "viewers": given.viewers, "length": given.length,
        "policy": given.policy, "binary": given.binary, "rqbit": given.rqbit,
        "log": given.log or "warn", "out": str(out), "logs": None, "lab": given.without,
    }
    if given.log:
        options["logs"] = str(ROOT / "target/lab/logs" / f"{now()}-{name}-{seed}")
    out.unlink(missing_ok=True)
    status = run_apart(Path(__file__).with_name("run.py"), [json.dumps(options)], RUN_MAX_S)
    if status or not out.exists():
        sys.exit(f"lab.sh: {name} with seed {seed} failed")
    return json.loads(out.read_text())


def tell(name, seed, figure):
    line = (f"{name:4} seed {seed}: {figure['copies']:.2f} copies (bound {figure['bound']:.2f}), "
            f"stalls {figure['stall_total_s']:.1f} s (longest {figure['stall_max_s']:.1f} s), "
            f"start p95 {figure['start_p95_s'] or 0:.2f} s, CPU {figure['cpu']:.0%}")
    if figure["saturated"]:
        line += f", cores over 90 % busy for {figure['cpu_full']:.0%} of it"
    print(line, flush=True)


def place(given):
    """The folder of the results: named as scripts/bench.sh names it, and never one in use."""
    if not (given.whole or given.keep):
        return ROOT / "target/lab" / now()
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", processor() or "unknown").strip("-").lower()
    base = ROOT / "bench-results" / f"{time.strftime('%Y-%m-%d', time.gmtime())}-{slug}"
    folder, nth = base, 2
    while (folder / "lab").exists():
        folder, nth = base.with_name(f"{base.name}-{nth}"), nth + 1
    return folder / "lab"


def now():
    return time.strftime("%Y-%m-%d-%H%M%S", time.gmtime())


def processor():
    found = re.search(r"^model name[^:]*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return found[1] if found else None


def facts(given):
    def first_line(*words):
        done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
        lines = (done.stdout + done.stderr).strip().splitlines()
        return lines[0] if lines and not done.returncode else "unknown"

    # A build that was named need not be of this commit.
    commit = first_line("git", "describe", "--always", "--dirty", "--abbrev=12")
    if "BITTUBE_UNDER_TEST" in os.environ:
        commit = "another build than this tree's"
    return [
        ("scenarios", " ".join(given.names)), ("policy", given.policy),
        ("left out", given.without or "nothing"),
        ("film", f"{given.length} s"), ("seeds", given.seeds),
        ("build", Path(given.binary).parent.name),
        ("commit", commit), ("nginx", first_line("nginx", "-v")),
        ("kernel", platform.release()), ("processor", processor()),
        ("cores", len(os.sched_getaffinity(0))),
    ]


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
