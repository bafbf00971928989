#!/usr/bin/env python3
"""mecha's tcp:// door beside haproxy's TCP mode (with and without splicing): CPU for bytes and for small messages, in one run.

    cargo build --release
    benches/peers/tcp.py                 # a minute
    benches/peers/tcp.py --smoke         # seconds, no figure means anything: does it still run?

Bulk is one connection on which a server sends as fast as it can; commands are redis-benchmark's GET and SET of 64 bytes.
Each proxy has one worker, rounds go to all in turn in another order each time, and the figure is the median. CPU is
the scheduler's nanosecond count of the proxy's threads. A proxy that used none ends the run: the traffic did not cross it.
"""
import argparse
import contextlib
import glob
import pathlib
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
GIB = 1 << 30
CHUNK = 1 << 18
CASES = {"depth 1": (1, 50, 40_000), "depth 16": (16, 50, 200_000)}

HAPROXY = """
global
  nbthread 1
  maxconn 2000
defaults
  mode tcp
  {option}
  timeout connect 2s
  timeout client 10m
  timeout server 10m
listen door
  bind 127.0.0.1:{port}
  server back 127.0.0.1:{back}
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port):
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    sys.exit(f"nobody listens on {port}")


def sender():
    """A server that is told a number of bytes, 8 big-endian, and sends as many."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(conn):
        with conn, contextlib.suppress(OSError):
            left = int.from_bytes(conn.recv(8), "big")
            chunk = bytes(CHUNK)
            while left > 0:
                conn.sendall(chunk[: min(left, CHUNK)])
                left -= CHUNK

    def accept():
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener.getsockname()[1]


def cpu(process):
    """Nanoseconds on a processor, of all threads."""
    threads = glob.glob(f"/proc/{process.pid}/task/*/schedstat")
    return sum(int(pathlib.Path(path).read_text().split()[0]) for path in threads)


def start_proxies(stack, mecha, back, folder):
    proxies = {}
    for name, option in (("haproxy", ""), ("haproxy, splice", "option splice-auto")):
        if shutil.which("haproxy"):
            port = free_port()
            file = pathlib.Path(folder) / f"{port}.cfg"
            file.write_text(HAPROXY.format(option=option, port=port, back=back))
            proxies[name] = (port, ["haproxy", "-db", "-f", str(file)])
    port = free_port()
    flags = ["--listen", f"tcp://127.0.0.1:{port}", "--to", f"tcp://127.0.0.1:{back}", "--workers", "1"]
    proxies["mecha"] = (port, [str(mecha), *flags])
    running = {}
    for name, (port, command) in proxies.items():
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stack.callback(process.kill)
        wait_for(port)
        running[name] = (port, process)
    return running


def bulk(port, count):
    received, buffer = 0, bytearray(CHUNK)
    with socket.create_connection(("127.0.0.1", port)) as conn:
        conn.sendall(count.to_bytes(8, "big"))
        while got := conn.recv_into(buffer):
            received += got
    assert received == count, f"{received} of {count} bytes"


def commands(port, depth, clients, count):
    words = ["-p", port, "-t", "get,set", "-r", 100_000, "-n", count, "-P", depth, "-c", clients, "-d", 64, "-q"]
    subprocess.run(["redis-benchmark", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def measure(title, unit, proxies, rounds, load, amount):
    seen = {name: [] for name in proxies}
    for _ in range(rounds):
        for name in random.sample(list(proxies), len(proxies)):
            port, process = proxies[name]
            before = cpu(process)
            load(port)
            used = cpu(process) - before
            if used == 0:
                sys.exit(f"{name} used no CPU: the traffic did not cross it")
            seen[name].append(used / amount)
    medians = {name: statistics.median(values) for name, values in seen.items()}
    least = min((value for name, value in medians.items() if name != "mecha"), default=None)
    print(title)
    for name, value in medians.items():
        ratio = f"  x{value / least:.2f} of the better haproxy" if least and name == "mecha" else ""
        print(f"  {name:16} {value:7.3f} {unit}{ratio}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mecha", default=ROOT / "target/release/mecha", help="the executable")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="one short round")
    options = parser.parse_args()
    rounds, size = (1, GIB // 64) if options.smoke else (options.rounds, GIB)
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        proxies = start_proxies(stack, options.mecha, sender(), folder)
        measure("bulk, server to client", "s/GiB", proxies, rounds, lambda port: bulk(port, size), size * 1e9 / GIB)
        if not (shutil.which("redis-server") and shutil.which("redis-benchmark")):
            return print("no redis-server and redis-benchmark: bulk only")
        redis = free_port()
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        server = subprocess.Popen(["redis-server", "--port", str(redis), "--save", "", "--dir", folder], **quiet)
        stack.callback(server.kill)
        wait_for(redis)
        proxies = start_proxies(stack, options.mecha, redis, folder)
        for title, (depth, clients, count) in CASES.items():
            count = count // 20 if options.smoke else count
            load = lambda port: commands(port, depth, clients, count)  # noqa: B023
            measure(f"redis-benchmark, {title}", "us/command", proxies, rounds, load, count * 2 * 1e3)


if __name__ == "__main__":
    main()
