#!/usr/bin/env python3
"""rqbit in a viewer's place, and as the seed in the origin's: a swarm without an origin."""

import http.client
import json
import os
import shutil

from bed import ORIGIN_IP, SCRATCH, answers, tail, wait_for

API = ("127.0.0.1", 8081)


class Rqbit:
    """Its server on one host, told over its HTTP API."""

    def __init__(self, bed, host, name):
        self.bed, self.host, self.name = bed, host, name
        self.home = SCRATCH / name
        self.film = self.process = None
        self.stats = {}

    def start(self, film, rider=False):
        self.film = film
        (self.home / "store").mkdir(parents=True, exist_ok=True)
        options = ["-v", "error", "--disable-dht", "--disable-dht-persistence", "--disable-lsd",
                   "--disable-upnp-port-forward", "--listen-ip", self.host.ip, "--listen-port",
                   "10234", "--http-api-listen-addr", f"{API[0]}:{API[1]}"]
        if rider:
            options += ["--ratelimit-upload", "1000"]
        words = [self.bed.options["rqbit"], *options, "server", "start", "--disable-persistence",
                 str(self.home / "store")]
        cores = self.bed.cores
        core = cores[self.host.number % len(cores)]
        self.process = self.host.spawn(self.name, words, core, dict(os.environ, HOME=self.home))
        wait_for(f"{self.name} to listen", self.is_ready)

    def is_ready(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended: {tail(self.name)}")
        return self.host.inside(lambda: answers(*API))

    def begin(self):
        """The torrent is added when the film is asked for; what the folder has of it is checked."""
        self.ask("POST", "/torrents?overwrite=true", self.film.torrent)

    def url(self):
        return f"http://{API[0]}:{API[1]}/torrents/0/stream/0"

    def uploaded(self):
        """Bytes given to peers."""
        return self.ask("GET", "/torrents/0/stats/v1")["uploaded_bytes"]

    def ask(self, method, target, body=None):
        def talk():
            line = http.client.HTTPConnection(*API, timeout=10)
            line.request(method, target, body)
            answer = line.getresponse()
            text = answer.read()
            if answer.status != 200:
                raise RuntimeError(f"{self.name}: {target}: {answer.status} {text[:200]}")
            return json.loads(text)

        return self.host.inside(talk)

    def is_cached(self, at, size):
        path = self.home / "store" / self.film.path.name
        try:
            with path.open("rb") as file:
                return os.lseek(file.fileno(), at, os.SEEK_DATA) == at
        except OSError:
            return False

    def look(self):
        """Its counters know no causes."""

    def stop(self, killed=False):
        if self.process.poll() is not None:
            self.stats["died"] = self.process.returncode
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.home, ignore_errors=True)


class Seed(Rqbit):
    """All of the film, behind the origin's line; what leaves it is what the origin is spared."""

    def __init__(self, bed):
        super().__init__(bed, bed.origin, "seed")
        self.sends, self.counted, self.looked_at = [], 0, None

    def start(self, film):
        (self.home / "store").mkdir(parents=True)
        os.link(film.path, self.home / "store" / film.path.name)
        super().start(film)
        self.begin()
        wait_for("the seed to have checked its film",
                 lambda: self.ask("GET", "/torrents/0/stats/v1")["finished"], 60)

    def count(self, now):
        """Once a second: (began, ended, bytes, to whom)."""
        if self.looked_at is not None and now - self.looked_at < 1.0:
            return
        total = self.uploaded()
        if total > self.counted:
            self.sends.append([self.looked_at or 0.0, now, total - self.counted, ORIGIN_IP])
        self.counted, self.looked_at = total, now
