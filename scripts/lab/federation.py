#!/usr/bin/env python3
"""Three sites, three trackers, six viewers; each tracker and each site killed in turn.

Started by scripts/federation.sh; starts itself once more in namespaces of its own.
"""

import argparse
import json
import selectors
import shutil
import sys
import time
from functools import partial
from pathlib import Path

import film as films
import plan
from apart import run_apart
from bed import SCRATCH, Net, Stub, Worker, wait_for
from player import Player, connect
from scenario import rate
from servers import OpenTracker, Site, Tracker, publish
from verdict import failures, faults, table

# The players' clocks are looked at so often, s.
TICK_S = 0.02
# A player that is so late, s, is waited for no longer.
PATIENCE_S = 20.0
RUN_MAX_S = 240
# When they were not for so long, the machine did other things, s.
GAP_S = 0.25


class Showing:
    """One player with one film."""

    def __init__(self, play, player, info_hash):
        self.play, self.player, self.info_hash = play, player, info_hash
        self.stats = {}
        self.over = False

    @property
    def is_playing(self):
        return self.player.joined_at is not None and not self.player.done

    @property
    def share(self):
        """Of the film, what came from peers."""
        return self.stats.get("bytes", {}).get("from_peers", 0) / len(self.player.film.data)

    @property
    def span(self):
        return self.player.log["join"], self.player.log["left"]


class Run:
    def __init__(self, options):
        self.options = options
        self.net = Net(options)
        self.killer = Worker()
        self.selector = selectors.DefaultSelector()
        self.begun = 0.0
        ip = lambda last: f"10.77.0.{last}"
        sites = [ip(last) for last in plan.SITES.values()]
        self.sites = {name: Site(self.net, name, ip(last), plan.TORRENTS[name])
                      for name, last in plan.SITES.items()}
        for site in self.sites.values():
            site.host.limit(rate(plan.SITE), None)
        t1, t2, ot = (ip(last) for last in plan.TRACKERS.values())
        self.trackers = {"t1": Tracker(self.net, "t1", t1, "http", sites),
                         "t2": Tracker(self.net, "t2", t2, "udp", sites),
                         "ot": OpenTracker(self.net, "ot", ot)}
        self.films, self.hashes = {}, {}
        self.publish()
        self.stubs = [self.start_stub(number) for number in range(plan.VIEWERS)]
        for host in self.net.hosts:
            # Known for good: a dead host is silence, and not after seconds an error.
            host.know([(other.ip, other.number) for other in self.net.hosts])
        self.showings = [self.prepare(play) for play in plan.PLAYS]
        self.down, self.heard, self.lacking = {}, {}, {}
        # When the machine did other things: what the players met then, the stubs did not do.
        self.gaps = []

    def now(self):
        return time.monotonic() - self.begun

    def url_of(self, tracker):
        name, _, way = tracker.partition("/")
        return self.trackers[name].udp_url if way else self.trackers[name].url

    def publish(self):
        """The registries and the sites stand; opentracker is told what to track, and follows."""
        for name in ("t1", "t2"):
            self.trackers[name].start()
        for site in self.sites.values():
            site.start()
        listed = set()
        for seed, (name, sites) in enumerate(plan.FILMS.items()):
            for site in map(self.sites.get, sites):
                path = site.root / f"{name}.mp4"
                film = films.draw(path, plan.length_s(name), seed)
                # Its own address first, then where else it is.
                urls = [site.url(name)] + [
                    self.sites[other].url(name) for other in sites if other != site.name]
                named = [self.url_of(tracker) for tracker in sites[site.name]]
                info_hash = publish(site, self.options["binary"], film, urls, named)
                if self.hashes.setdefault(name, info_hash) != info_hash:
                    raise RuntimeError(f"{name} is another torrent at site {site.name}")
                self.films[name] = film
                if any(tracker.startswith("ot") for tracker in sites[site.name]):
                    listed.add(info_hash)
        self.trackers["ot"].allow(listed)
        self.trackers["ot"].start()

    def start_stub(self, number):
        host = self.net.add_host(f"10.77.0.{plan.VIEWER_BYTE + number}")
        host.limit(rate(plan.UPLOAD), rate(plan.DOWNLOAD))
        stub = Stub(self.net, host, f"viewer{number}")
        stub.start(None)
        return stub

    def prepare(self, play):
        stub = self.stubs[play.viewer]
        chain = "".join(f"{self.url_of(tracker)}/" for tracker in play.chain)
        url = f"http://127.0.0.1:8081/{chain}{self.sites[play.site].url(play.film)}"
        there = lambda *to: stub.host.inside(lambda: connect(*to))
        player = Player(self.films[play.film], url, [], there, lambda at: False, self.selector)
        return Showing(play, player, self.hashes[play.film])

    def play(self):
        self.begun = time.monotonic() + 1.0
        self.epoch = time.time() - self.now()
        faults, last_look = list(plan.FAULTS), self.now()
        while not all(showing.over for showing in self.showings):
            now = self.now()
            if now - last_look > GAP_S:
                self.gaps.append((last_look, now))
            last_look = now
            if faults and now >= faults[0].at:
                self.killer.do(partial(self.strike, faults.pop(0)))
            for showing in self.showings:
                self.step(showing, now)
            for key, _ in self.selector.select(TICK_S):
                key.data.handle_readable(self.now())
            if self.killer.failure:
                raise self.killer.failure
        self.killer.drain()
        swarms = [self.swarms(stub) for stub in self.stubs]
        for showing in self.showings:
            showing.stats = swarms[showing.play.viewer].get(showing.info_hash, {})
        for name, tracker in self.trackers.items():
            self.heard.setdefault(name, []).append(tracker.announces())
        for stub in self.stubs:
            stub.stop()
            if "died" in stub.stats:
                raise RuntimeError(f"{stub.name} died: {stub.stats['died']}")

    def held_up(self, begun=0.0, ended=float("inf")):
        """Seconds of that time in which the machine did other things."""
        return sum(max(0.0, min(to, ended) - max(at, begun)) for at, to in self.gaps)

    def step(self, showing, now):
        player, at = showing.player, showing.play.at
        if showing.over or now < at:
            return
        if player.joined_at is None:
            player.join(now)
        player.tick(now)
        if player.done or now > at + player.film.length_s + PATIENCE_S:
            player.leave(now)
            showing.over = True

    def swarms(self, stub):
        """What it has of each torrent and from whom. A busy machine may take its time."""
        def look():
            stub.look()
            return "swarms" in stub.stats

        wait_for(f"{stub.name} to tell its swarms", look)
        return {swarm["info_hash"]: swarm for swarm in stub.stats["swarms"]}

    def strike(self, fault):
        """Kills, and starts again."""
        server = self.trackers.get(fault.server) or self.sites[fault.server]
        if fault.server in self.trackers:
            self.heard[fault.server] = [server.announces()]
        else:
            self.lacking[fault.server] = self.lack(fault.server)
        begun = self.now()
        server.kill(fault.with_host)
        time.sleep(max(0.0, begun + fault.lasts_s - self.now()))
        server.start()
        self.down[fault.server] = (begun, self.now())

    def lack(self, site):
        """Players in the midst of its films, by what their stubs still lack, of 1."""
        midst = [showing for showing in self.showings
                 if site in plan.FILMS[showing.play.film] and showing.is_playing]
        swarms = {who: self.swarms(self.stubs[who]) for who in {s.play.viewer for s in midst}}
        found = {}
        for showing in midst:
            play = showing.play
            swarm = swarms[play.viewer].get(showing.info_hash, {"have_pieces": 0, "pieces": 1})
            lack = 1 - swarm["have_pieces"] / swarm["pieces"]
            found[f"viewer {play.viewer} of {play.film}"] = lack
        return found


def main():
    if sys.argv[1:2] != ["--inside"]:
        words = argparse.ArgumentParser(prog="scripts/federation.sh", description=__doc__)
        words.add_argument("--binary", required=True, help=argparse.SUPPRESS)
        words.add_argument("--logs", metavar="FOLDER", help="all logs are kept there")
        words.add_argument("--log", default="warn", metavar="FILTER", help="what viewers log")
        options = dict(vars(words.parse_args()), policy="hybrid", lab="")
        sys.exit(run_apart(__file__, ["--inside", json.dumps(options)], RUN_MAX_S))
    options = json.loads(sys.argv[2])
    run = Run(options)
    try:
        run.play()
    finally:
        if options["logs"]:
            keep_logs(Path(options["logs"]))
    print(table(run), faults(run), sep="\n\n")
    if run.gaps:
        print(f"\nthe machine did other things for {run.held_up():.1f} s, which count for nobody")
    found = failures(run)
    for failure in found:
        print(f"federation.sh: {failure}", file=sys.stderr)
    sys.exit(bool(found))


def keep_logs(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for log in [*SCRATCH.glob("*.log"), *SCRATCH.glob("*/*.log")]:
        shutil.copy(log, folder / f"{log.parent.name}-{log.name}")


if __name__ == "__main__":
    main()
