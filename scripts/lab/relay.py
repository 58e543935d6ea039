#!/usr/bin/env python3
"""Stands before the origin: delays requests, and takes the origin away when told on stdin.

`delay S`, `down`, `up`. Answers pass with short buffers, so that the origin's log tells what went
out and not what lay in a queue; the PROXY protocol tells it who asked.
"""

import asyncio
import socket
import sys

BUFFER = 32 * 1024


class Relay:
    def __init__(self, listen, origin, delay_s):
        self.listen, self.origin, self.delay_s = listen, origin, delay_s
        self.server = None
        self.open = set()

    async def run(self):
        await self.up()
        loop = asyncio.get_running_loop()
        while line := (await loop.run_in_executor(None, sys.stdin.readline)).split():
            if line[0] == "delay":
                self.delay_s = float(line[1])
            elif line[0] == "down":
                self.server.close()
                for writer in self.open:
                    writer.transport.abort()
            elif line[0] == "up":
                await self.up()

    async def up(self):
        self.server = await asyncio.start_server(
            self.serve, *self.listen, limit=BUFFER, backlog=512
        )

    async def serve(self, reader, writer):
        self.open.add(writer)
        up = socket.socket()
        up.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        up.setblocking(False)
        await asyncio.get_running_loop().sock_connect(up, self.origin)
        origin_reader, origin_writer = await asyncio.open_connection(sock=up, limit=BUFFER)
        outer = writer.get_extra_info("socket")
        outer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        writer.transport.set_write_buffer_limits(BUFFER)
        (peer, peer_port), (own, own_port) = outer.getpeername(), outer.getsockname()
        origin_writer.write(f"PROXY TCP4 {peer} {own} {peer_port} {own_port}\r\n".encode())
        tasks = [
            asyncio.create_task(self.pass_requests(reader, origin_writer)),
            asyncio.create_task(self.pass_answers(origin_reader, writer)),
        ]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        for end in (writer, origin_writer):
            end.close()
        self.open.discard(writer)

    async def pass_requests(self, reader, writer):
        loop = asyncio.get_running_loop()
        queue = asyncio.Queue()

        async def deliver():
            while True:
                due, data = await queue.get()
                await asyncio.sleep(due - loop.time())
                writer.write(data)

        delivery = asyncio.create_task(deliver())
        try:
            while data := await reader.read(BUFFER):
                queue.put_nowait((loop.time() + self.delay_s, data))
        except OSError:
            pass
        finally:
            delivery.cancel()

    @staticmethod
    async def pass_answers(reader, writer):
        try:
            while data := await reader.read(BUFFER):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass


def main():
    listen, origin, delay_s = sys.argv[1:]
    split = lambda addr: (addr.split(":")[0], int(addr.split(":")[1]))
    asyncio.run(Relay(split(listen), split(origin), float(delay_s)).run())


if __name__ == "__main__":
    main()
