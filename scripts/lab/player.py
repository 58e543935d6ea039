#!/usr/bin/env python3
"""A player without a picture: reads a stream by the clock, and looks at every byte.

It starts when BUFFER_S are there, reads at most AHEAD_S ahead of what it plays, stalls when it has
nothing to play and goes on when RESUME_S are there. A seek is a new request, as a browser makes it.
"""

import selectors
import socket
from urllib.parse import urlsplit

BUFFER_S = 2.0
RESUME_S = 1.0
AHEAD_S = 10.0
RETRY_S = 0.5
# A viewer that has not come to the end so long after it should have is taken away.
PATIENCE_S = 120.0
READ_LEN = 64 * 1024
# The kernel is not to read ahead in the player's stead.
SOCKET_LEN = 64 * 1024


class Player:
    """All times are seconds since the run began; `clock` tells the time."""

    def __init__(self, film, url, seeks, connect, is_cached, selector):
        self.film, self.url, self.connect, self.is_cached = film, url, connect, is_cached
        self.seeks = list(seeks)
        self.selector, self.reading = selector, False
        self.stream = None
        self.head = b""
        # Bytes of the film: next to come, and where this stretch of play began.
        self.at = 0
        self.waiting_for = "start"
        self.asked_at = self.joined_at = None
        self.retry_at = None
        # Played up to this second, as of that time, if it plays.
        self.second, self.second_at = 0.0, None
        self.done = False
        self.log = {
            "start_s": None, "first_byte_s": None, "stalls": [], "seeks": [], "errors": [],
            "bytes": 0, "wrong_bytes": 0, "played_s": 0.0, "reads": [],
        }

    # Driving

    def join(self, now):
        self.joined_at = now
        self.log["join"] = now
        self._ask(now, 0)

    def tick(self, now):
        """Moves the clock, and reads on or leaves off."""
        if self.done or self.joined_at is None:
            return
        self._advance(now)
        if self.seeks and now >= self.seeks[0][0]:
            self._seek(now, self.seeks.pop(0)[1])
        if self.retry_at is not None and now >= self.retry_at:
            self._open(now)
        ahead = self.at / self.film.rate - self.second
        self._read(self.stream is not None and ahead < AHEAD_S)

    def handle_readable(self, now):
        try:
            data = self.stream.recv(READ_LEN)
        except BlockingIOError:
            return
        except OSError as error:
            self._broken(now, str(error))
            return
        if not data:
            self._broken(now, "closed")
            return
        if self.head is not None:
            self.head += data
            head, blank, data = self.head.partition(b"\r\n\r\n")
            if not blank:
                return
            self.head = None
            if not head.startswith(b"HTTP/1.1 206"):
                self._broken(now, head.split(b"\r\n")[0].decode(errors="replace"))
                return
        self._take(now, data)

    def leave(self, now):
        """Whatever is under way ends; what waited is counted up to now."""
        if self.joined_at is None:
            self.log["join"] = now
        self._advance(now)
        if self.waiting_for == "stall":
            self.log["stalls"][-1][1] = now - self.log["stalls"][-1][0]
        self.log["left"] = now
        self.log["unstarted"] = self.log["start_s"] is None
        self._close()
        self.done = True

    # Steps

    def _ask(self, now, at):
        self.at, self.asked_at = at, now
        self.second, self.second_at = at / self.film.rate, None
        self._open(now)

    def _open(self, now):
        self._close()
        self.head, self.retry_at = b"", None
        url = urlsplit(self.url)
        try:
            self.stream = self.connect(url.hostname, url.port or 80, SOCKET_LEN)
            target = self.url.split("/", 3)[3]
            self.stream.sendall(
                f"GET /{target} HTTP/1.1\r\nHost: {url.netloc}\r\n"
                f"Range: bytes={self.at}-\r\n\r\n".encode()
            )
        except OSError as error:
            self._broken(now, str(error))

    def _read(self, on):
        if on and not self.reading:
            self.selector.register(self.stream, selectors.EVENT_READ, self)
        elif self.reading and not on:
            self.selector.unregister(self.stream)
        self.reading = on

    def _close(self):
        self._read(False)
        if self.stream is not None:
            self.stream.close()
            self.stream = None

    def _broken(self, now, why):
        self._close()
        if self.at < len(self.film.data):
            self.log["errors"].append([now, why])
            self.retry_at = now + RETRY_S

    def _take(self, now, data):
        if not data:
            return
        if self.log["first_byte_s"] is None:
            self.log["first_byte_s"] = now - self.asked_at
        self._advance(now)
        if self.film.data[self.at : self.at + len(data)] != data:
            right = self.film.data[self.at : self.at + len(data)]
            wrong = sum(a != b for a, b in zip(data, right)) + len(data) - len(right)
            self.log["wrong_bytes"] += wrong
        self._note_read(now, len(data))
        self.at += len(data)
        self.log["bytes"] += len(data)
        if self.at >= len(self.film.data):
            self._close()
        self._start_if_ready(now)

    def _note_read(self, now, length):
        """[time, first byte, last byte]; half a second of reading makes one entry."""
        reads = self.log["reads"]
        if reads and reads[-1][2] == self.at and now - reads[-1][0] < 0.5:
            reads[-1][2] += length
        else:
            reads.append([now, self.at, self.at + length])

    def _start_if_ready(self, now):
        if self.waiting_for is None:
            return
        need = RESUME_S if self.waiting_for == "stall" else BUFFER_S
        ready = self.at / self.film.rate - self.second
        if ready < need and self.at < len(self.film.data):
            return
        if self.waiting_for == "start":
            self.log["start_s"] = now - self.asked_at
        elif self.waiting_for == "seek":
            self.log["seeks"][-1]["took_s"] = now - self.asked_at
        else:
            self.log["stalls"][-1][1] = now - self.log["stalls"][-1][0]
        self.waiting_for, self.second_at = None, now

    def _advance(self, now):
        if self.second_at is None:
            return
        has = self.at / self.film.rate
        played = min(now - self.second_at, has - self.second)
        self.second += played
        self.log["played_s"] += played
        # The moment it ran dry lies between this look and the last.
        dry_at, self.second_at = self.second_at + played, now
        if self.second < has - 1e-6:
            return
        self.second_at = None
        if self.at < len(self.film.data):
            self.waiting_for = "stall"
            self.log["stalls"].append([dry_at, None, self.at])
        elif not self.seeks:
            self.done = True

    def _seek(self, now, second):
        if self.waiting_for == "stall":
            self.log["stalls"][-1][1] = now - self.log["stalls"][-1][0]
        at = int(second * self.film.rate)
        self.log["seeks"].append(
            {"at": now, "to": at, "cached": self.is_cached(at), "took_s": None}
        )
        self.waiting_for = "seek"
        self._ask(now, at)


def connect(host, port, receive_len):
    """On loopback or a link of the bed, so that it takes no time to speak of."""
    stream = socket.socket()
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_len)
    stream.settimeout(5)
    stream.connect((host, port))
    stream.setblocking(False)
    return stream
