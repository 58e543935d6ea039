#!/usr/bin/env python3
"""The bed: hosts on one bridge, each a network namespace with a limited link, and what runs there.

It is built where everything is private already: network, mounts and processes are namespaces of
their own, so that nothing outlives the run and no two runs meet.
"""

import ctypes
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from scenario import DOWNLOAD, ORIGIN, rate

HERE = Path(__file__).resolve().parent
SCRATCH = Path("/run/lab")
ORIGIN_IP = "10.77.0.1"
TRACKER = f"http://{ORIGIN_IP}:6969/announce"
FILM_URL = f"http://{ORIGIN_IP}/film.mp4"
# The same file under another name, for who asks without BitTube.
PLAIN_URL = f"http://{ORIGIN_IP}/plain.mp4"
# What a request takes to the origin, s.
ORIGIN_DELAY = 0.02
# The last bytes of addresses: the origin's, viewers', seeds' and a poisoner's.
VIEWER_BYTE, SEED_BYTE, POISONER_BYTE = 10, 100, 150
LAST_BYTES = (1, *range(VIEWER_BYTE, VIEWER_BYTE + 60), 100, 101, POISONER_BYTE)
# So long the address of a killed viewer lives on, s.
CLOSING_S = 2.0
# Bytes that wait for one receiver.
QUEUE_LEN = 16_000
RIDER_BIT_S = 1_000_000
CLONE_NEWNET = 0x40000000
CONGESTION = Path("/proc/sys/net/ipv4/tcp_congestion_control")


def run(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip() or done.returncode}")


class Host:
    """One namespace and its cable."""

    libc = ctypes.CDLL(None, use_errno=True)
    home = None

    def __init__(self, number):
        self.number, self.name = number, f"h{number}"
        run("ip", "netns", "add", self.name)
        outer, inner = f"v{number}", "e0"
        run("ip", "link", "add", outer, "type", "veth", "peer", "name", inner, "address",
            hardware(number), "netns", self.name)
        run("ip", "link", "set", outer, "master", "br0", "up")
        run("ip", "-n", self.name, "link", "set", "lo", "up")
        # Packets as they are on a wire: a queue of a few must not meet one of 64 KiB.
        run("ip", "-n", self.name, "link", "set", inner, "gso_max_segs", "1", "up")
        self.file = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
        # Whatever this machine prefers: BBR takes a path without delay for one that holds nothing.
        # Linux's cubic does as reno does on short paths; a namespace may not always choose it.
        self.inside(lambda: CONGESTION.write_text("reno"))
        self.ip = None

    def address(self, ip):
        """The place of one who was killed goes to another, under another address. The one before
        stays for a moment, so that the kernel can close what the killed program had open, as on any
        machine; what the newcomer calls is called from the new one."""
        before, self.ip = self.ip, ip
        run("ip", "-n", self.name, "addr", "add", f"{ip}/32", "dev", "e0")
        run("ip", "-n", self.name, "route", "replace", "10.77.0.0/16", "dev", "e0", "src", ip)
        if before is not None:
            words = ["ip", "-n", self.name, "addr", "del", f"{before}/32", "dev", "e0"]
            timer = threading.Timer(CLOSING_S, subprocess.run, (words,), {"capture_output": True})
            timer.daemon = True
            timer.start()

    def know(self, places):
        """Where each address of the run is, or was: asking for those of the dead would overflow the
        kernel's one table of neighbours for all namespaces, and with it what is sent to the living.
        What is sent to the dead is answered by nobody."""
        lines = [f"neigh replace {ip} lladdr {hardware(number)} dev e0 nud permanent"
                 for ip, number in places if number != self.number]
        batch(["ip", "-n", self.name], lines)

    def limit(self, upload_bit_s, download_bit_s):
        """The link's two ways. What goes up waits in a queue for each receiver, and the queues take
        turns, as in a router of today (and as upload slots are meant to share): in one queue that
        drops its tail, who sends and who starves would be chance, and that would be measured."""
        # Who uploads nothing still asks and acknowledges.
        fair_queues(self.name, upload_bit_s or RIDER_BIT_S)
        if download_bit_s:
            run("tc", "qdisc", "replace", "dev", f"v{self.number}", "root", "tbf", "rate",
                f"{download_bit_s}bit", "burst", str(max(download_bit_s // 800, 6000)),
                "latency", "50ms")

    def plug(self, is_in):
        """The cable. Without it whatever is sent here is lost, and nobody is told."""
        run("ip", "link", "set", f"v{self.number}", "up" if is_in else "down")

    def spawn(self, name, words, core=None, env=None, **pipes):
        """A program there; both helpers replace themselves by it, so that its id is its own."""
        words = ["nsenter", f"--net=/run/netns/{self.name}", *words]
        if core is not None:
            words = ["taskset", "-c", str(core), *words]
        log = open(SCRATCH / f"{name}.log", "ab")
        pipes.setdefault("stdin", subprocess.DEVNULL)
        pipes.setdefault("stdout", log)
        return subprocess.Popen(words, stderr=log, env=env, **pipes)

    def inside(self, act):
        """Does `act` with this thread there: sockets stay where they were made."""
        self._enter(self.file)
        try:
            return act()
        finally:
            self._enter(Host.home)

    @staticmethod
    def _enter(file):
        if Host.libc.setns(file, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


def fair_queues(name, bit_s):
    """htb on what leaves a host: a class for each other host, told by its address's last byte."""
    lines = [
        "qdisc replace dev e0 root handle 1: htb default 2",
        f"class add dev e0 parent 1: classid 1:1 htb rate {bit_s}bit burst {bit_s // 800 + 3000}",
        # Everything that is not for a host of the bed, such as ARP.
        f"class add dev e0 parent 1:1 classid 1:2 htb rate 64kbit ceil {bit_s}bit",
    ]
    for last in LAST_BYTES:
        lines += [
            f"class add dev e0 parent 1:1 classid 1:{last + 16:x} htb "
            f"rate {bit_s // len(LAST_BYTES)}bit ceil {bit_s}bit quantum 1600",
            f"qdisc add dev e0 parent 1:{last + 16:x} bfifo limit {QUEUE_LEN}",
            "filter add dev e0 parent 1: prio 1 protocol ip u32 "
            f"match u32 {last:#010x} 0x000000ff at 16 flowid 1:{last + 16:x}",
        ]
    batch(["tc", "-n", name], lines)


def batch(words, lines):
    done = subprocess.run([*words, "-batch", "-"], input="\n".join(lines) + "\n",
                          capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{words[0]}: {done.stderr.strip()}")


def hardware(number):
    return f"02:00:00:00:00:{number:02x}"


class Net:
    """A bridge, and the hosts on it."""

    def __init__(self, options):
        self.options = options
        run("mount", "-t", "tmpfs", "-o", "mode=755,size=75%", "tmpfs", "/run")
        SCRATCH.mkdir(parents=True)
        SCRATCH.chmod(0o755)
        os.makedirs("/run/netns")
        Host.home = os.open("/proc/self/ns/net", os.O_RDONLY)
        run("ip", "link", "add", "name", "br0", "type", "bridge", "forward_delay", "0")
        run("ip", "link", "set", "br0", "up")
        run("ip", "link", "set", "lo", "up")
        # What passes the bridge is no business of a firewall, and would cost processor time there.
        for hook in Path("/proc/sys/net/bridge").glob("bridge-nf-call-*"):
            hook.write_text("0")
        self.cores = sorted(os.sched_getaffinity(0))
        self.hosts = []

    def add_host(self, ip=None):
        host = Host(len(self.hosts))
        self.hosts.append(host)
        if ip:
            host.address(ip)
        return host


class Bed(Net):
    """With an origin and its tracker on one host."""

    def __init__(self, options):
        super().__init__(options)
        self.servers = []
        self.origin = self.add_host(ORIGIN_IP)
        self.origin.limit(rate(ORIGIN), None)
        self.relay = None

    def start_origin(self, film):
        """nginx behind the relay, and the tracker beside it."""
        home = SCRATCH / "nginx"
        os.link(film.path, film.path.with_name("plain.mp4"))
        configure_nginx(home, film.path.parent, "127.0.0.1:8000 proxy_protocol sndbuf=32k",
                        "$proxy_protocol_addr")
        nginx = self.origin.spawn("nginx", ["nginx", "-p", str(home), "-c", f"{home}/nginx.conf"])
        words = [sys.executable, str(HERE / "relay.py"), f"{ORIGIN_IP}:80", "127.0.0.1:8000"]
        self.relay = self.origin.spawn(
            "relay", [*words, str(ORIGIN_DELAY)], stdin=subprocess.PIPE, text=True)
        folder = SCRATCH / "tracker"
        folder.mkdir()
        folder.chmod(0o777)
        # Debian's opentracker knows only the torrents on its list, which it reads as nobody.
        (folder / "list").write_text(film.info_hash.hex() + "\n")
        tracker = self.origin.spawn("tracker", [
            "opentracker", "-i", ORIGIN_IP, "-p", "6969", "-P", "6969", "-w", "list",
            "-d", str(folder)])
        self.servers = [self.relay, tracker, nginx]
        for ip, port in ((ORIGIN_IP, 80), ("127.0.0.1", 8000), (ORIGIN_IP, 6969)):
            wait_for(f"the origin's port {port}", lambda ip=ip, port=port: self.origin.inside(
                lambda: answers(ip, port)))

    def stop_origin(self):
        for server in self.servers:
            server.terminate()
            server.wait(10)

    def tell_relay(self, line):
        self.relay.stdin.write(line + "\n")
        self.relay.stdin.flush()

    def origin_log(self):
        return (SCRATCH / "nginx/access.log").read_text().splitlines()


def configure_nginx(home, root, listen, who, more=""):
    """`who`: the variable that tells who asks, for the log. `more`: of the place of all files."""
    home.mkdir()
    (home / "nginx.conf").write_text(
        NGINX.format(home=home, root=root, listen=listen, who=who, more=more))


NGINX = """
user root;
daemon off;
worker_processes 1;
pid {home}/nginx.pid;
error_log {home}/error.log;
events {{ worker_connections 2048; }}
http {{
    map $sent_http_content_range $first {{ default -; "~^bytes (?<number>[0-9]+-)" $number; }}
    log_format sent "$msec $request_time {who} $status $body_bytes_sent $first $uri";
    access_log {home}/access.log sent;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    sendfile on;
    sendfile_max_chunk 32k;
    keepalive_requests 100000;
    types {{ video/mp4 mp4; application/x-bittorrent torrent; }}
    server {{
        listen {listen};
        location / {{ root {root}; {more} }}
    }}
}}
"""


class Stub:
    """`bittube serve`, or `bittube seed`, on one host."""

    def __init__(self, bed, host, name):
        self.bed, self.host, self.name = bed, host, name
        self.home = SCRATCH / name
        self.process = None
        self.stats = {}

    def start(self, film, seed=False, rider=False):
        state = self.home / "state"
        env = at_home(state)
        options = self.bed.options
        words = [options["binary"], "seed" if seed else "serve", "--store",
                 str(self.home / "store"), "--shards", "1", "--allow-private",
                 "--log", options["log"]]
        if seed:
            words += ["--data", str(film.path), str(film.path) + ".torrent"]
        else:
            words += ["--listen", "127.0.0.1:8081", "--admin", "127.0.0.1:8082",
                      "--origin-policy", options["policy"]]
            lab = [options["lab"]] * bool(options["lab"]) + ["no-upload"] * rider
            words += ["--lab", ",".join(lab)] if lab else []
        cores = self.bed.cores
        core = cores[self.host.number % len(cores)]
        self.process = self.host.spawn(self.name, words, core, env)
        if not seed:
            self.token_file = state / "bittube/token"
            wait_for(f"{self.name} to listen", self.is_ready)

    def is_ready(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} ended: {tail(self.name)}")
        return self.token_file.exists() and self.host.inside(lambda: answers("127.0.0.1", 8082))

    def begin(self):
        """Nothing: the request begins everything."""

    def url(self):
        return f"http://127.0.0.1:8081/{TRACKER}/{FILM_URL}"

    def look(self):
        """Its own counters: a cross-check, and what waste only it can tell."""
        def ask():
            line = http.client.HTTPConnection("127.0.0.1", 8082, timeout=3)
            bearer = {"Authorization": f"Bearer {self.token_file.read_text().strip()}"}
            line.request("GET", "/api/stats", headers=bearer)
            return json.load(line.getresponse())

        try:
            self.stats = self.host.inside(ask)
        except (OSError, ValueError, http.client.HTTPException) as error:
            self.stats = {"error": str(error)}

    def is_cached(self, at, size):
        """Whether the store's file has bytes there: a film's file is as long as the film, with
        holes."""
        for path in (self.home / "store").rglob("*"):
            if path.is_file() and path.stat().st_size == size:
                with path.open("rb") as file:
                    try:
                        return os.lseek(file.fileno(), at, os.SEEK_DATA) == at
                    except OSError:
                        return False
        return False

    def stop(self, killed=False):
        """It was started here, and it is ended by its own id."""
        if self.process is None:
            return
        died = self.process.poll()
        if died is not None:
            self.stats["died"] = died
        elif killed:
            self.process.kill()
        else:
            self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.stats["hung"] = True
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.home, ignore_errors=True)


def at_home(folder):
    """The environment of a `bittube` that keeps all its state in this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    env = dict(os.environ, HOME=str(folder), RUST_BACKTRACE="1")
    for name in ("STATE", "CACHE", "CONFIG", "DATA"):
        env[f"XDG_{name}_HOME"] = str(folder)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        env.pop(name, None)
    return env


class Worker(threading.Thread):
    """Does in order what must not hold up the players' clocks."""

    def __init__(self):
        super().__init__(daemon=True)
        self.jobs, self.more, self.failure = [], threading.Condition(), None
        self.start()

    def do(self, job):
        with self.more:
            self.jobs.append(job)
            self.more.notify_all()

    def run(self):
        while True:
            with self.more:
                while not self.jobs:
                    self.more.wait()
                job = self.jobs[0]
            try:
                job()
            except Exception as error:
                self.failure = self.failure or error
            with self.more:
                self.jobs.pop(0)
                self.more.notify_all()

    def drain(self):
        with self.more:
            while self.jobs:
                self.more.wait()
        if self.failure:
            raise self.failure


def answers(ip, port):
    try:
        socket.create_connection((ip, port), timeout=1).close()
        return True
    except OSError:
        return False


def wait_for(what, ask, limit_s=20.0):
    begun = time.monotonic()
    while not ask():
        if time.monotonic() - begun > limit_s:
            raise RuntimeError(f"waited {limit_s:.0f} s for {what}")
        time.sleep(0.02)


def tail(name, lines=15):
    path = SCRATCH / f"{name}.log"
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
