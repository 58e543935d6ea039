#!/usr/bin/env python3
"""Web servers and trackers, each on a host of its own, that can be killed and started again."""

import http.client
import json
import os
import re
import signal

from bed import SCRATCH, answers, at_home, configure_nginx, tail, wait_for

TRACKER_PORT = 6969
# A publisher's word to the registries.
TOKEN = "the-federation's-publisher-0123456789"


class Server:
    """One program; its id leads a group, for nginx has children."""

    def __init__(self, net, name, ip, port):
        self.name, self.port = name, port
        self.host = net.add_host(ip)
        self.home = SCRATCH / name
        self.process = None

    def start(self):
        self.host.plug(True)
        words, env = self.command()
        self.process = self.host.spawn(self.name, words, env=env, start_new_session=True)
        wait_for(f"{self.name} to listen", self.is_ready)

    def is_ready(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended: {tail(self.name)}")
        return self.is_up()

    def is_up(self):
        return self.host.inside(lambda: answers(self.host.ip, self.port))

    def kill(self, with_host=False):
        """At once, in the midst of whatever it does. With its host, nothing is even refused."""
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} was dead already: {tail(self.name)}")
        if with_host:
            self.host.plug(False)
        os.killpg(self.process.pid, signal.SIGKILL)
        if self.process.wait(5) != -signal.SIGKILL:
            raise RuntimeError(f"{self.name} was ended by another: {self.process.returncode}")
        wait_for(f"{self.name} to be dead", lambda: not self.is_up(), 2.0)

    def get(self, target):
        def ask():
            line = http.client.HTTPConnection(self.host.ip, self.port, timeout=5)
            line.request("GET", target)
            return line.getresponse().read().decode()

        return self.host.inside(ask)


class Site(Server):
    """nginx. How a torrent is found there is said by `torrents`: beside the film, by a `Link`
    header, or not at all, so that only a tracker's registry knows."""

    def __init__(self, net, name, ip, torrents):
        super().__init__(net, name, ip, 80)
        self.torrents = torrents
        self.root = SCRATCH / f"{name}-root"
        self.root.mkdir()
        link = ""
        if torrents == "link":
            (self.root / "torrents").mkdir()
            link = ("add_header Link '</torrents$uri.torrent>; rel=\"describedby\"; "
                    "type=\"application/x-bittorrent\"';")
        configure_nginx(self.home, self.root, f"{ip}:80", "$remote_addr", link)

    def command(self):
        return ["nginx", "-p", str(self.home), "-c", f"{self.home}/nginx.conf"], None

    def url(self, film):
        return f"http://{self.host.ip}/{film}.mp4"

    def torrent(self, film):
        """Where its publisher writes it."""
        folders = {"beside": self.root, "link": self.root / "torrents", "registry": self.home}
        return folders[self.torrents] / f"{film}.mp4.torrent"

    def sent(self, film, begun, ended):
        """Bytes of the film in answers that began and ended between these two times of day."""
        total = 0
        for line in (self.home / "access.log").read_text().splitlines():
            at, took, _, status, count, _, path = line.split(" ")
            inside = begun <= float(at) - float(took) and float(at) <= ended
            if inside and path == f"/{film}.mp4" and status == "206":
                total += int(count)
        return total


class Tracker(Server):
    """`bittube tracker` with a registry, by HTTP and UDP."""

    def __init__(self, net, name, ip, scheme, sites):
        super().__init__(net, name, ip, TRACKER_PORT)
        self.binary = net.options["binary"]
        self.url = f"{scheme}://{ip}:{TRACKER_PORT}/announce"
        self.env = at_home(self.home)
        (self.home / "tokens").write_text(f"{TOKEN} {' '.join(sites)}\n")

    def command(self):
        here = f"{self.host.ip}:{TRACKER_PORT}"
        return [
            self.binary, "tracker", "--http", here, "--udp", here, "--interval", "60s",
            "--store", str(self.home / "store"), "--registry", str(self.home / "registry"),
            "--tokens", str(self.home / "tokens"), "--allow-private"], self.env

    def announces(self):
        """Since it was started: (by HTTP, by UDP)."""
        stats = json.loads(self.get("/stats.json"))
        return stats["http"]["announces"], stats["udp"]["announces"]


class OpenTracker(Server):
    """Debian's knows only the torrents on its list, which it reads as nobody."""

    def __init__(self, net, name, ip):
        super().__init__(net, name, ip, TRACKER_PORT)
        self.url = f"http://{ip}:{TRACKER_PORT}/announce"
        self.udp_url = f"udp://{ip}:{TRACKER_PORT}/announce"
        self.home.mkdir()
        self.home.chmod(0o777)
        (self.home / "conf").write_text(
            f"listen.tcp_udp {ip}:{TRACKER_PORT}\naccess.whitelist list\naccess.stats {ip}\n"
            f"tracker.rootdir {self.home}\n")

    def allow(self, info_hashes):
        (self.home / "list").write_text("".join(f"{each}\n" for each in sorted(info_hashes)))

    def command(self):
        return ["opentracker", "-f", str(self.home / "conf")], None

    def announces(self):
        stats = self.get("/stats?mode=everything")
        ways = (re.search(rf"<{way}>.*?<announce>(\d+)", stats, re.S) for way in ("tcp", "udp"))
        return tuple(int(way[1]) for way in ways)


def publish(site, binary, film, urls, trackers):
    """What a publisher does, on the site's own host; the info-hash that it is told."""
    words = [binary, "publish", str(film.path), "--allow-private", "--token", TOKEN]
    words += [word for url in urls for word in ("--url", url)]
    words += [word for url in trackers for word in ("--tracker", url)]
    words += ["--output", str(site.torrent(film.path.stem))]
    name = f"publish-{site.name}-{film.path.stem}"
    done = site.host.spawn(name, words, env=at_home(SCRATCH / name))
    text = "" if done.wait(60) else tail(name, 200)
    magnet = re.search(r"urn:btih:([0-9a-f]{40})", text)
    if not magnet:
        raise RuntimeError(f"{name}: {tail(name)}")
    return magnet[1]
