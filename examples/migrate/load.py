"""Clients of a Redis that use it all the time and check every reply. They know nothing of a migration.

Usage: load.py PORT STOP_FILE RESULT_FILE

Each client writes keys of its own and reads them back, and all of them count together. Ends when STOP_FILE is there, and
writes to RESULT_FILE how many calls there were, how many of them failed, and what the common counter must be.
"""

import os
import random
import socket
import sys
import threading
import time


class Client:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = self.socket.makefile("rb")

    def call(self, *words):
        words = [str(word).encode() for word in words]
        frame = b"*%d\r\n" % len(words)
        frame += b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)
        self.socket.sendall(frame)
        return self.reply()

    def reply(self):
        line = self.file.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionError("the connection was closed")
        kind, rest = line[:1], line[1:-2]
        if kind == b"+":
            return rest.decode()
        if kind == b":":
            return int(rest)
        if kind == b"$":
            length = int(rest)
            return None if length < 0 else self.file.read(length + 2)[:-2].decode()
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        raise RuntimeError(line.decode().strip())


class Worker(threading.Thread):
    def __init__(self, number, port, stop):
        super().__init__()
        self.number, self.stop, self.client = number, stop, Client(port)
        self.calls, self.counted, self.failures = 0, 0, []

    def say(self, expected, *words):
        self.calls += 1
        reply = self.client.call(*words)
        if expected is not None and reply != expected:
            self.failures.append(f"{words}: {reply!r} instead of {expected!r}")

    def run(self):
        own = {}
        chance = random.Random(self.number)
        try:
            while not os.path.exists(self.stop):
                key = f"user:{self.number}:{chance.randrange(50)}"
                self.say(own.get(key), "GET", key) if key in own else self.say(None, "EXISTS", key)
                own[key] = f"{chance.random()}"
                self.say("OK", "SET", key, own[key])
                self.say(own[key], "GET", key)
                self.say(None, "INCR", "visits")
                self.counted += 1
                self.say(None, "HINCRBY", f"cart:{self.number}", "items", 1)
                self.say(None, "ZADD", "board", self.counted, self.number)
                if chance.random() < 0.2:
                    del own[key]
                    self.say(1, "DEL", key)
                    self.say(None, "GET", key)
                time.sleep(0.005)
        except (OSError, RuntimeError) as error:
            self.failures.append(str(error))


def main():
    port, stop, result = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    workers = [Worker(number, port, stop) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    failures = [failure for worker in workers for failure in worker.failures]
    for failure in failures[:10]:
        print(f"failed: {failure}", file=sys.stderr)
    calls, counted = sum(worker.calls for worker in workers), sum(worker.counted for worker in workers)
    with open(result, "w", encoding="utf-8") as file:
        file.write(f"{calls} {len(failures)} {counted}\n")


main()
