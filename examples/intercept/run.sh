#!/usr/bin/env bash
# Leads unmodified programs through mecha, in a network namespace that this script makes and removes: nothing of the machine's own
# network is touched.
#
#   sudo examples/intercept/run.sh            with nftables
#   sudo examples/intercept/run.sh iptables   with iptables
#
# A redis-server stands at its usual port; redis-cli dials it, and is served by mecha, which lets nobody flush it. A web server stands at
# port 8000, and curl reaches it as bytes that nobody looks at. Needs root, iproute2, nftables or iptables, redis-server,
# redis-cli, python3 and curl; MECHA names the executable (built here otherwise).
set -euo pipefail

rules=${1:-nft}
here=$(cd "$(dirname "$0")" && pwd)
if [ -z "${INSIDE:-}" ]; then
    [ "$(id -u)" = 0 ] || { echo "run it as root: it makes a network namespace" >&2; exit 1; }
    if [ -z "${MECHA:-}" ]; then
        (cd "$here/../.." && cargo build --quiet)
        MECHA=$here/../../target/debug/mecha
    fi
    name=mecha-example-$$
    ip netns add "$name"
    trap 'ip netns del "$name"' EXIT
    INSIDE=1 MECHA=$(realpath "$MECHA") ip netns exec "$name" bash "$here/run.sh" "$rules"
    exit
fi

work=$(mktemp -d)
pids=()
end() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap end EXIT
say() { printf '\n== %s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
# wait_until WHAT COMMAND...: at most half a minute.
wait_until() {
    local what=$1 tries=0
    shift
    until "$@" >/dev/null 2>&1; do
        tries=$((tries + 1))
        [ "$tries" -lt 300 ] || fail "$what"
        sleep 0.1
    done
}

server=10.99.0.9
ip link set lo up
ip addr add "$server/32" dev lo
redis-server --bind "$server" --save '' --protected-mode no >/dev/null &
pids+=($!)
(cd "$work" && echo "hello from the web server" >index.html && exec python3 -m http.server --bind "$server" 8000) >/dev/null 2>&1 &
pids+=($!)
wait_until "Redis does not start" redis-cli -h "$server" PING
wait_until "the web server does not start" curl -s "http://$server:8000/"

cat >"$work/mecha.yaml" <<YAML
listeners:
  - { name: cache, listen: "redis://0.0.0.0:16379", transparent: redirect, to: "redis://$server:6379",
      filters: [ { deny_commands: { commands: [FLUSHALL] } } ] }
  - { name: rest, listen: "tcp://0.0.0.0:15001", transparent: redirect, to: "original://" }
admin: 127.0.0.1:9900
YAML
say "mecha, with a listener for Redis and one for the rest"
"$MECHA" "$work/mecha.yaml" &
pids+=($!)
wait_until "mecha does not start" curl -sf http://127.0.0.1:9900/ready

say "before: redis-cli reaches the server itself"
redis-cli -h "$server" SET greeting "from the server"
say "the rules"
"$MECHA" intercept apply --rules "$rules" --port 6379=16379 --rest 15001 --exclude-port 9900 | tail -20
say "after: the same words, by way of mecha"
[ "$(redis-cli -h "$server" GET greeting)" = "from the server" ] || fail "the value is gone"
redis-cli -h "$server" FLUSHALL | tee "$work/refused"
grep -q NOPERM "$work/refused" || fail "the filter has not acted"
curl -s "http://$server:8000/" | tee "$work/page"
grep -q hello "$work/page" || fail "the page is gone"
curl -s http://127.0.0.1:9900/metrics >"$work/metrics"
grep -E '^mecha_calls_total\{listener="(cache|rest)"' "$work/metrics" || fail "nothing has crossed mecha"

say "the rules are removed, and the server is dialled directly again"
"$MECHA" intercept remove
redis-cli -h "$server" FLUSHALL
say "done"
