#!/usr/bin/env python3
"""What routing in front of a Redis Cluster costs: CPU of one worker for each command, in one run beside a single server and
a list of three.

    benches/peers/cluster.py target/release/mecha [--rounds 7] [--depth 16]

Needs redis-server, redis-cli and redis-benchmark; uses free ports from --port on (below those of outgoing connections). The
order changes from round to round; the median is over rounds. CPU time is the scheduler's, so other work on the machine
disturbs it by what it does to caches only.
"""

import argparse
import glob
import os
import random
import statistics
import subprocess
import tempfile
import time

options = argparse.ArgumentParser()
options.add_argument("mecha")
options.add_argument("--rounds", type=int, default=7)
options.add_argument("--depth", default="16")
options.add_argument("--calls", type=int, default=100_000)
options.add_argument("--port", type=int, default=21_300)
options = options.parse_args()

children = []


def start(*words):
    child = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children.append(child)
    return child.pid


def redis(port, folder, *more):
    path = os.path.join(folder, str(port))
    os.mkdir(path)
    start("redis-server", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", path, *more)


def ask(port, *words):
    return subprocess.run(["redis-cli", "-p", str(port), *words], capture_output=True, text=True).stdout


def cpu_nanos(pid):
    return sum(int(open(path).read().split()[0]) for path in glob.glob(f"/proc/{pid}/task/*/schedstat"))


def load(port, calls):
    words = ["redis-benchmark", "-p", str(port), "-t", "get,set", "-r", "100000", "-n", str(calls)]
    words += ["--csv", "-P", options.depth, "-c", "50", "-d", "64"]
    lines = subprocess.run(words, capture_output=True, text=True, timeout=300).stdout.splitlines()
    assert len(lines) == 3, lines


def run(folder):
    first = options.port
    single, whole, shards, listed = first, first + 1, range(first + 2, first + 5), range(first + 5, first + 8)
    redis(single, folder)
    for port in listed:
        redis(port, folder)
    for port in (whole, *shards):
        redis(port, folder, "--cluster-enabled", "yes")
    time.sleep(1)
    ask(whole, "cluster", "addslotsrange", "0", "16383")
    for port, (low, high) in zip(shards, ((0, 5460), (5461, 10922), (10923, 16383))):
        ask(port, "cluster", "addslotsrange", str(low), str(high))
        ask(port, "cluster", "meet", "127.0.0.1", str(shards[0]))
    while not all("cluster_slots_ok:16384" in ask(port, "cluster", "info") for port in (whole, *shards)):
        time.sleep(0.2)
    backs = {
        "one server": f"redis://127.0.0.1:{single}",
        "cluster of one": f"redis-cluster://127.0.0.1:{whole}",
        "list of three": "redis://" + ",".join(f"127.0.0.1:{port}" for port in listed),
        "cluster of three": f"redis-cluster://127.0.0.1:{shards[0]}",
    }
    doors = {}
    for port, (name, to) in enumerate(backs.items(), first + 20):
        words = ["--listen", f"redis://127.0.0.1:{port}", "--to", to, "--admin", f"127.0.0.1:{port + 20}"]
        doors[name] = (port, start(options.mecha, *words, "--workers", "1"))
    time.sleep(1.5)
    for port, _ in doors.values():
        load(port, options.calls // 2)
    seen = {name: [] for name in doors}
    for _ in range(options.rounds):
        for name in random.sample(list(doors), len(doors)):
            port, pid = doors[name]
            before = cpu_nanos(pid)
            load(port, options.calls)
            seen[name].append((cpu_nanos(pid) - before) / 1000 / (2 * options.calls))
    for name, micros in seen.items():
        median = statistics.median(micros)
        base = statistics.median(seen["list of three" if "three" in name else "one server"])
        print(f"{name:17} {median:.3f} us a command, least {min(micros):.3f}, x{median / base:.3f}")


with tempfile.TemporaryDirectory() as folder:
    try:
        run(folder)
    finally:
        for child in children:
            child.kill()
            child.wait()
