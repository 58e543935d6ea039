#!/usr/bin/env python3
"""One run of one scenario with one seed, in namespaces of its own; writes a JSON file.

Started by main.py under `unshare`, as the first process of its namespace: all others end with it.
"""

import json
import os
import resource
import selectors
import shutil
import signal
import sys
import time
from functools import partial
from pathlib import Path

import bound
import film as films
import scenario as scenarios
from bed import FILM_URL, ORIGIN_IP, PLAIN_URL, POISONER_BYTE, SCRATCH, SEED_BYTE, TRACKER
from bed import VIEWER_BYTE, Bed, Stub, Worker, tail
from film import PIECE_LEN
from player import BUFFER_S, PATIENCE_S, Player, connect
from rqbit import Rqbit, Seed
from scenario import DOWNLOAD, rate

# The players' clocks are looked at so often, s, and their sockets no more often than this: each look
# costs processor time, of which the viewers need some.
TICK_S = 0.02
PAUSE_S = 0.005
# Whoever takes a place that was left is started so long before it joins, s.
REPLACE_S = 0.45
# How long before the first joins: all stubs stand by then, as they do on a viewer's machine.
LEAD_S = 1.0


class Viewer:
    def __init__(self, session, number):
        self.session, self.number = session, number
        self.player = self.stub = self.host = None
        self.ready = self.joined = self.gone = False


class Run:
    def __init__(self, options):
        self.options = options
        self.scenario = scenarios.draw(
            options["scenario"], options["seed"], options["viewers"], options["length"])
        self.bed = Bed(options)
        (SCRATCH / "site").mkdir()
        self.film = films.make(SCRATCH / "site", options["length"], TRACKER)
        self.bed.start_origin(self.film)
        slots = 1 + max(session.slot for session in self.scenario.sessions)
        self.slots = [self.bed.add_host() for _ in range(slots)]
        self.sessions_of = [0] * slots
        self.introduce()
        self.viewers = [Viewer(s, n) for n, s in enumerate(self.scenario.sessions)]
        self.extras, self.poisoner = [], None
        self.worker = Worker()
        self.selector = selectors.DefaultSelector()
        self.begun = 0.0
        self.plain = options["policy"] == "http"
        self.program = Rqbit if options["policy"] == "rqbit" else Stub
        self.seed = None
        if self.program is Rqbit:
            self.seed = Seed(self.bed)
            self.seed.start(self.film)

    def now(self):
        return time.monotonic() - self.begun

    def play(self):
        self.add_extras()
        slots = set()
        for viewer in self.viewers:
            if viewer.session.slot not in slots:
                slots.add(viewer.session.slot)
                self.prepare(viewer)
        plain_start = self.play_plain() if self.scenario.name == "N1" else None
        self.begun = time.monotonic() + LEAD_S
        epoch = time.time() - self.now()
        cpu, own = Cpu(self.now), own_cpu_s()
        events = list(self.scenario.origin_events)
        last = max(v.session.leave or v.session.join + self.film.length_s for v in self.viewers)
        while not all(viewer.gone for viewer in self.viewers):
            now = self.now()
            if now > last + PATIENCE_S + 30:
                raise RuntimeError("the run does not end")
            while events and now >= events[0][0]:
                self.bed.tell_relay(events.pop(0)[1])
            for viewer in self.viewers:
                self.step(viewer, now)
            for key, _ in self.selector.select(TICK_S):
                key.data.handle_readable(self.now())
            time.sleep(PAUSE_S)
            cpu.look()
            if self.seed:
                self.seed.count(self.now())
        self.worker.drain()
        # Answers under way are logged when they end.
        time.sleep(1.0)
        for stub in self.extras + [self.seed] * bool(self.seed):
            stub.stop()
        length = self.now()
        self.bed.stop_origin()
        own = (own_cpu_s() - own) / length / len(self.bed.cores)
        return dict(self.result(epoch, cpu, plain_start), cpu_own=own)

    def introduce(self):
        """Tells all hosts where the viewers are and will be."""
        counts = [0] * len(self.slots)
        places = [(ORIGIN_IP, 0)]
        for session in self.scenario.sessions:
            slot, nth = session.slot, counts[session.slot]
            counts[slot] += 1
            places.append((address(slot, nth), self.slots[slot].number))
        for host in [self.bed.origin, *self.slots]:
            host.know(places)

    # Viewers

    def step(self, viewer, now):
        session = viewer.session
        if viewer.gone:
            return
        if not viewer.joined:
            if viewer.host is None and now >= session.join - REPLACE_S:
                viewer.host = self.slots[session.slot]
                self.worker.do(partial(self.prepare, viewer))
            if viewer.ready and now >= session.join:
                viewer.joined = True
                if viewer.stub:
                    viewer.stub.begin()
                viewer.player.join(now)
            elif self.worker.failure:
                raise self.worker.failure
            return
        player = viewer.player
        player.tick(now)
        over = session.join + self.film.length_s + PATIENCE_S
        if session.leave is not None:
            over = session.leave
        if (player.done and session.leave is None) or now >= over:
            viewer.gone = True
            player.leave(now)
            self.worker.do(partial(self.dismiss, viewer))

    def prepare(self, viewer):
        """A host for one session: its link, an address that no peer knows yet, its stub."""
        session = viewer.session
        host = viewer.host = self.slots[session.slot]
        nth = self.sessions_of[session.slot]
        self.sessions_of[session.slot] += 1
        host.address(address(session.slot, nth))
        if nth == 0:
            host.limit(rate(session.upload), rate(DOWNLOAD))
        is_cached = lambda at: False
        url = FILM_URL
        if not self.plain:
            viewer.stub = self.program(self.bed, host, f"viewer{viewer.number}")
            viewer.stub.start(self.film, rider=session.rider)
            url = viewer.stub.url()
            is_cached = lambda at: viewer.stub.is_cached(at, len(self.film.data))
        viewer.player = Player(self.film, url, session.seeks, self.connector(host), is_cached,
                               self.selector)
        viewer.ready = True

    def dismiss(self, viewer):
        if viewer.stub is None:
            return
        viewer.stub.look()
        viewer.stub.stop(viewer.session.killed)

    def connector(self, host):
        return lambda *to: host.inside(lambda: connect(*to))

    def add_extras(self):
        for nth in range(self.scenario.seeds):
            host = self.bed.add_host(f"10.77.0.{SEED_BYTE + nth}")
            host.limit(rate(scenarios.UPLOAD), rate(DOWNLOAD))
            stub = Stub(self.bed, host, f"seed{nth}")
            stub.start(self.film, seed=True)
            self.extras.append(stub)
        for nth in range(self.scenario.poisoners):
            host = self.bed.add_host(f"10.77.0.{POISONER_BYTE + nth}")
            host.limit(rate(scenarios.UPLOAD), rate(DOWNLOAD))
            program = str(Path(__file__).with_name("poisoner.py"))
            self.poisoner = host.spawn("poisoner", [
                sys.executable, program, self.film.info_hash.hex(), str(self.film.path),
                str(PIECE_LEN), TRACKER, "10234"])
        if self.scenario.seeds or self.scenario.poisoners:
            time.sleep(2.0)

    def play_plain(self):
        """How long a start takes without BitTube, over the same link."""
        host = self.slots[0]
        player = Player(self.film, PLAIN_URL, [], self.connector(host), lambda at: False,
                        self.selector)
        self.begun = time.monotonic()
        player.join(self.now())
        while player.log["start_s"] is None and self.now() < 60:
            player.tick(self.now())
            for _ in self.selector.select(TICK_S):
                player.handle_readable(self.now())
        player.leave(self.now())
        return player.log["start_s"]

    # What came of it

    def result(self, epoch, cpu, plain_start):
        clients = []
        for viewer in self.viewers:
            session = viewer.session
            log = dict(viewer.player.log)
            log.update(viewer=viewer.number, slot=session.slot, planned=session.join,
                       rider=session.rider, killed=session.killed, upload=session.upload,
                       stub=viewer.stub.stats if viewer.stub else None)
            log["died"] = bool(viewer.stub and "died" in viewer.stub.stats)
            clients.append(log)
        poisoner = None
        if self.poisoner:
            lines = tail("poisoner", 1)
            poisoner = json.loads(lines) if lines.startswith("{") else {"error": lines}
        points = bound.curve(self.scenario, self.film, BUFFER_S)
        return {
            "scenario": self.scenario.name, "seed": self.options["seed"],
            "policy": self.options["policy"], "length": self.film.length_s,
            "film_bytes": len(self.film.data), "rate": self.film.rate,
            "clients": clients, "sends": self.sends(epoch), "bound": points,
            "bound_honest": self.bound_without_riders(),
            "cpu": cpu.marks, "plain_start_s": plain_start, "poisoner": poisoner,
            "deaths": {c["viewer"]: tail(f"viewer{c['viewer']}") for c in clients if c["died"]},
        }

    def bound_without_riders(self):
        riders = [s for s in self.scenario.sessions if s.rider]
        for session in riders:
            session.upload = scenarios.UPLOAD
        points = bound.curve(self.scenario, self.film, BUFFER_S)
        for session in riders:
            session.upload = 0.0
        return points[-1][1]

    def sends(self, epoch):
        """(began, ended, bytes, viewer's address) of each answer with bytes of the film."""
        sends = self.seed.sends if self.seed else []
        for line in self.bed.origin_log():
            ended, took, addr, status, count, _, path = line.split(" ")
            if path == "/film.mp4" and int(status) in (200, 206) and int(count):
                ended = float(ended) - epoch
                sends.append([ended - float(took), ended, int(count), addr])
        return sends


def address(slot, nth):
    """Of the nth session there."""
    return f"10.77.{1 + nth}.{VIEWER_BYTE + slot}"


def own_cpu_s():
    """Processor time of this process and of those that it has seen end."""
    uses = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in uses)


class Cpu:
    """How busy the machine was, each second, of all its cores together."""

    def __init__(self, now):
        self.now, self.marks = now, []
        self.last, self.next = self.read(), 1.0

    @staticmethod
    def read():
        words = Path("/proc/stat").read_text().split("\n")[0].split()[1:9]
        ticks = [int(word) for word in words]
        # What runs at a lower priority gives way, and counts as idle.
        return sum(ticks), ticks[1] + ticks[3] + ticks[4]

    def look(self):
        if self.now() < self.next:
            return
        now = self.read()
        total, idle = now[0] - self.last[0], now[1] - self.last[1]
        self.marks.append(round(1 - idle / max(1, total), 3))
        self.last, self.next = now, self.now() + 1.0


def main():
    for name in ("SIGTERM", "SIGINT"):
        signal.signal(getattr(signal, name), lambda *_: os._exit(1))
    options = json.loads(sys.argv[1])
    run = Run(options)
    try:
        result = run.play()
    finally:
        if options["logs"]:
            Path(options["logs"]).mkdir(parents=True)
            for log in [*SCRATCH.glob("*.log"), *SCRATCH.glob("nginx/*.log")]:
                shutil.copy(log, options["logs"])
    Path(options["out"]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
