#!/usr/bin/env python3
"""Films of the bed: an mp4 head that tells how long it plays, then random bytes; a torrent."""

import hashlib
import random
import struct
from dataclasses import dataclass
from pathlib import Path

# vod.md's bed: constant 2 Mbit/s; a piece plays half a second, so that it is handed on quickly.
BITRATE = 2_000_000
PIECE_LEN = 128 * 1024
NAME = "film.mp4"


@dataclass
class Film:
    path: Path
    data: bytes
    length_s: float

    @property
    def rate(self):
        """Bytes a second of play."""
        return len(self.data) / self.length_s


@dataclass
class WithTorrent(Film):
    info_hash: bytes
    torrent: bytes


def draw(path, length_s, seed):
    """Writes a film that only this seed gives."""
    head = _mp4_head(length_s)
    size = BITRATE // 8 * length_s
    data = head + random.Random(seed).randbytes(size - len(head))
    path.write_bytes(data)
    return Film(path, data, length_s)


def make(folder, length_s, announce):
    """Writes the film and `<film>.torrent` into `folder`."""
    film = draw(Path(folder) / NAME, length_s, length_s)
    data, size = film.data, len(film.data)
    pieces = b"".join(
        hashlib.sha1(data[at : at + PIECE_LEN]).digest() for at in range(0, size, PIECE_LEN)
    )
    info = {"length": size, "name": NAME, "piece length": PIECE_LEN, "pieces": pieces}
    torrent = _bencode({"announce": announce, "info": info})
    film.path.with_name(NAME + ".torrent").write_bytes(torrent)
    return WithTorrent(film.path, data, length_s, hashlib.sha1(_bencode(info)).digest(), torrent)


def _box(kind, body):
    return struct.pack(">I4s", 8 + len(body), kind) + body


def _mp4_head(length_s):
    # Version and flags, two times of making, milliseconds a second, milliseconds of play; the rest
    # of mvhd (rate, volume, matrix, next track) is as ISO 14496-12 has it by default.
    header = struct.pack(">5I", 0, 0, 0, 1000, length_s * 1000)
    header += struct.pack(">IH10x", 0x10000, 0x100)
    header += struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000) + bytes(24)
    header += struct.pack(">I", 1)
    ftyp = _box(b"ftyp", b"isom\0\0\2\0isommp41")
    moov = _box(b"moov", _box(b"mvhd", header))
    rest = BITRATE // 8 * length_s - len(ftyp) - len(moov)
    return ftyp + moov + struct.pack(">I4s", rest, b"mdat")


def _bencode(value):
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    return b"d" + b"".join(_bencode(key) + _bencode(value[key]) for key in sorted(value)) + b"e"
