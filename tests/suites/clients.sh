#!/bin/bash
# Runs the own suite of a client library on the servers that it expects, directly and through mecha, and prints what fails
# only through mecha.
#
#   tests/suites/clients.sh MECHA KIND WAYS COMMAND...
#
# MECHA is the built program. KIND says which servers the suite expects at their usual ports: `redis` (6379), `memcached`
# (11211) or `cluster` (three primaries and three replicas from CLUSTER_PORT on, 16379 without it). WAYS is a list of what
# COMMAND is run against, one after another, the first of which the others are compared with:
#
#   direct     the servers themselves
#   through    mecha, before servers of the same kind; before a cluster it announces itself as six addresses of one
#   plain      (cluster) one server that does not tell of a cluster, at 6379
#   embedded   mecha, before the store inside it
#   redis      (memcached) mecha, before Redis
#   memcached  (redis) mecha, before Memcached
#
# Each run has a network and processes of its own (`unshare`, as root) and fresh servers, so the fixed ports of suites disturb nobody,
# and finds WAY in its environment, MECHA and BACK for `behind.sh`. What a line of failure looks like is FAILURES, a pattern
# of grep -E, which knows pytest, go test, mocha, node --test and cargo test. KEEP_LOGS is a folder for what the runs say. Exit code 1 if there is
# a difference. SECONDS_EACH (900) is the time for one run.
set -u
if [ "${1:-}" != --inside ]; then
    [ $# -ge 4 ] || { sed -n '2,23s/^# \{0,1\}//p' "$0"; exit 2; }
    mecha=$(realpath "$1") kind=$2 ways=$3; shift 3
    work=${KEEP_LOGS:-$(mktemp -d)}
    mkdir -p "$work"
    failures=${FAILURES:-'^FAILED |^ERROR |^ *--- FAIL|^ *[0-9]+\) |^not ok|^ *not ok|^test .* FAILED$|\[FAIL\]'}
    first= code=0
    for way in ${ways//,/ }; do
        timeout "${SECONDS_EACH:-900}" unshare -n -p -f --kill-child --mount-proc "$0" --inside "$mecha" "$kind" "$way" "$@" >"$work/$way.log" 2>&1
        ended=$?
        # Times, ports and reasons differ from run to run.
        sed 's/\x1b\[[0-9;]*m//g' "$work/$way.log" | grep -aE "$failures" |
            sed -E 's/ - .*$//; s/ *[([][0-9.]+ ?m?s[])]//; s/^ *[0-9]+\) +//; s/^( *not ok) [0-9]+/\1/; s/^ +//; s/ +$//' |
            sort -u >"$work/$way.failures"
        echo "$way: $(wc -l <"$work/$way.failures") failures, exit code $ended; $(tail -n 1 "$work/$way.log")"
        first=${first:-$way}
        only=$(comm -13 "$work/$first.failures" "$work/$way.failures")
        [ -z "$only" ] || { printf '%s\n' "$only" | sed "s/^/    only $way: /"; code=1; }
    done
    [ -n "${KEEP_LOGS:-}" ] || rm -rf "$work"
    exit "$code"
fi

shift
mecha=$1 kind=$2; export WAY=$3; shift 3
ip link set lo up
work=$(mktemp -d)
pids=()
trap 'kill "${pids[@]}" 2>/dev/null; wait "${pids[@]}" 2>/dev/null; rm -rf "$work"' EXIT
start() { "$@" >>"$work/log" 2>&1 & pids+=($!); }
redis() {
    start redis-server --port "$1" --bind 127.0.0.1 --save "" --dir "$work" --enable-debug-command yes \
        --enable-module-command yes --dbfilename "$1.rdb" --appenddirname "$1" "${@:2}"
}
await() {
    for _ in $(seq 200); do
        (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return
        sleep 0.05
    done
    echo "nobody listens on $1" >&2; cat "$work/log"; exit 2
}
# The nodes of a cluster from port $1 on, joined.
cluster() {
    local port nodes=()
    for port in $(seq "$1" $(($1 + 5))); do
        redis "$port" --cluster-enabled yes --cluster-config-file "$work/$port.conf" --cluster-node-timeout 5000
        nodes+=("127.0.0.1:$port")
    done
    for port in $(seq "$1" $(($1 + 5))); do await "$port"; done
    redis-cli --cluster create "${nodes[@]}" --cluster-replicas 1 --cluster-yes >>"$work/log"
    for port in $(seq "$1" $(($1 + 5))); do
        until redis-cli -p "$port" cluster info | grep -q cluster_state:ok; do sleep 0.1; done
    done
}
base=${CLUSTER_PORT:-16379}
case $kind-$WAY in
    redis-direct) redis 6379; await 6379 ;;
    redis-through) redis 7999; await 7999; start "$mecha" --listen redis://127.0.0.1:6379 --to redis://127.0.0.1:7999; await 6379 ;;
    redis-embedded) start "$mecha" --listen redis://127.0.0.1:6379 --to embedded://; await 6379 ;;
    redis-memcached)
        start memcached -u root -l 127.0.0.1 -p 7999
        await 7999; start "$mecha" --listen redis://127.0.0.1:6379 --to memcached://127.0.0.1:7999; await 6379 ;;
    memcached-direct) start memcached -u root -l 127.0.0.1 -p 11211; await 11211 ;;
    memcached-through)
        start memcached -u root -l 127.0.0.1 -p 7999
        await 7999; start "$mecha" --listen memcached://127.0.0.1:11211 --to memcached://127.0.0.1:7999; await 11211 ;;
    memcached-redis)
        redis 7999; await 7999
        start "$mecha" --listen memcached://127.0.0.1:11211 --to redis://127.0.0.1:7999; await 11211 ;;
    memcached-embedded) start "$mecha" --listen memcached://127.0.0.1:11211 --to embedded://; await 11211 ;;
    cluster-direct) cluster "$base" ;;
    cluster-through)
        cluster 9000
        all=
        for port in $(seq "$base" $((base + 5))); do all+="127.0.0.1:$port,"; done
        {
            echo "clusters: { nodes: { to: redis-cluster://127.0.0.1:9000 } }"
            echo "listeners:"
            for port in $(seq "$base" $((base + 5))); do
                echo "  - { listen: redis://127.0.0.1:$port, to: nodes, announce: [${all%,}] }"
            done
        } >"$work/mecha.yaml"
        start "$mecha" "$work/mecha.yaml"; await $((base + 5)) ;;
    cluster-plain)
        cluster 9000
        start "$mecha" --listen redis://127.0.0.1:6379 --to redis-cluster://127.0.0.1:9000; await 6379 ;;
    *) echo "no such way: $WAY to $kind" >&2; exit 2 ;;
esac
# For suites that start memcached themselves.
export REAL_MEMCACHED; REAL_MEMCACHED=$(command -v memcached)
mkdir "$work/bin"
install -m 755 "$(dirname "$(realpath "$0")")/behind.sh" "$work/bin/memcached"
export PATH=$work/bin:$PATH
if [ "$WAY" != direct ]; then
    export MECHA=$mecha BACK=$WAY
    [ "$WAY" != through ] || BACK=memcached
fi
"$@"
