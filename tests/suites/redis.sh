#!/bin/bash
# Runs Redis's own suite against an external server, first directly and then through mecha, and prints what fails only
# through mecha.
#
#   tests/suites/redis.sh CHECKOUT MECHA UNIT...
#
# CHECKOUT is a source tree of the Redis version that is installed as redis-server; MECHA is the built program. Each unit
# has servers of its own: units leave settings behind that make later ones fail. Exit code 1 if there is a difference.
# SUITE_FLAGS go to the suite (--singledb: clients share connections; otherwise each has selected a database).
# TO is where mecha leads instead of to a server: TO=embedded:// with
# SUITE_FLAGS="--singledb --ignore-encoding --tags -needs:debug". Both sides are then run by a copy of the suite for which a
# CONFIG SET that is refused is no error: most settings are about a server's own memory.
# UNIT_SECONDS (150) is the time for one unit; one that does not finish is said to, and compared as far as it got.
set -u
[ $# -ge 3 ] || { sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2; }
checkout=$(realpath "$1") mecha=$(realpath "$2"); shift 2
work=$(mktemp -d)
pids=()
stop() { [ ${#pids[@]} -eq 0 ] || { kill "${pids[@]}" 2>/dev/null; wait "${pids[@]}" 2>/dev/null; }; pids=(); }
trap 'stop; rm -rf "$work"' EXIT

if [ -n "${TO:-}" ]; then
    cp -r "$checkout" "$work/checkout"
    checkout=$work/checkout
    cat >>"$checkout/tests/support/redis.tcl" <<'TCL'
rename ::redis::__dispatch__ ::redis::__dispatch_strict__
proc ::redis::__dispatch__ {id method args} {
    set strict [list ::redis::__dispatch_strict__ $id $method {*}$args]
    if {[string equal -nocase $method config] && [string equal -nocase [lindex $args 0] set]} {
        if {[catch {uplevel 1 $strict} reply]} { return OK }
        return $reply
    }
    uplevel 1 $strict
}
TCL
fi

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

await() {
    for _ in $(seq 200); do
        [ "$(redis-cli -p "$1" ping 2>/dev/null)" = PONG ] && return
        sleep 0.05
    done
    echo "nobody answers on port $1" >&2
    exit 2
}

# one WAY UNIT: leaves the names of failed tests in $work/WAY.
one() {
    local server door base
    server=$(free_port)
    redis-server --port "$server" --bind 127.0.0.1 --save "" --dir "$work" --enable-debug-command yes \
        --enable-protected-configs yes --enable-module-command yes >"$work/server.log" 2>&1 &
    pids+=($!)
    await "$server"
    door=$server
    if [ "$1" = through ]; then
        door=$(free_port)
        "$mecha" --listen "redis://127.0.0.1:$door" --to "${TO:-redis://127.0.0.1:$server}" --workers 1 \
            >"$work/mecha.log" 2>&1 &
        pids+=($!)
        await "$door"
    fi
    base=$((20000 + RANDOM % 9000))
    (cd "$checkout" && timeout "${UNIT_SECONDS:-150}" tclsh tests/test_helper.tcl --host 127.0.0.1 --port "$door" \
        --baseport "$base" --portcount 400 --timeout 60 --clients 1 --durable --no-latency \
        ${SUITE_FLAGS:-} --single "$2") \
        2>&1 | sed 's/\x1b\[[0-9;]*m//g' >"$work/$1.log"
    stop
    grep -a '^\[err\]\|^\[exception\]' "$work/$1.log" | sort -u >"$work/$1"
    passed=$(grep -ac '^\[ok\]' "$work/$1.log")
    state=
    grep -aq 'All tests passed\|tests failed\|\[1/1 done\]' "$work/$1.log" || state=" (unfinished)"
    printf '%s: %s passed, %s failed%s' "$1" "$passed" "$(wc -l <"$work/$1")" "$state"
}

code=0
for unit in "$@"; do
    printf '%s: ' "$unit"
    one direct "$unit"
    printf '; '
    one through "$unit"
    echo
    only=$(comm -13 "$work/direct" "$work/through")
    [ -z "$only" ] || { printf '%s\n' "$only" | sed 's/^/    only through mecha: /'; code=1; }
    # A unit that ends early, or skips tests, is a difference too.
    [ -z "$state" ] || code=1
done
exit $code
