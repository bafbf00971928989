#!/bin/bash
# Runs Memcached's own tests on servers that they start themselves, first directly and then through a mecha before each
# of them, and prints what fails only through mecha.
#
#   tests/suites/memcached.sh CHECKOUT MECHA [TEST...]
#
# CHECKOUT is a source tree of the version that is installed as memcached; MECHA is the built program; TEST is a name as
# in CHECKOUT/t, all of them without one. Nothing of the suite is changed: it starts the program `memcached-debug` of its
# tree, which here is this script. Exit code 1 if there is a difference. TEST_SECONDS (150) is the time for one test,
# KEEP_LOGS a folder for what the tests say. RUN_SASL_TESTS and SSL_TEST have the meaning that the suite gives them.
set -u

# As `memcached-debug`: starts the server that the flags describe, and with MECHA set a mecha before it, on the port that
# the test asked for. The test's signals are for the server; mecha ends with it.
serve() {
    local args=() at port= inner=
    for arg in "$@"; do
        # No Unix sockets: then the suite uses TCP, and the test of them skips itself.
        [ "$arg" != -h ] || { memcached -h | grep -v unix-socket; exit; }
        # Only a build that drops privileges knows this one.
        if [ "$arg" = relaxed_privileges ]; then unset "args[-1]"; else args+=("$arg"); fi
    done
    [ -n "${MECHA:-}" ] || exec memcached "${args[@]}"
    for at in "${!args[@]}"; do
        case ${args[at]} in
            -p) port=${args[at + 1]}; args[at + 1]=$(free_port) ;;
            -p*) port=${args[at]#-p}; args[at]=-p$(free_port) ;;
        esac
        case ${args[at]} in -p) inner=${args[at + 1]} ;; -p*) inner=${args[at]#-p} ;; esac
    done
    # Without a port there is nothing to stand before: wrong flags, a daemon, a Unix socket.
    [ -n "$port" ] || exec memcached "${args[@]}"
    memcached "${args[@]}" &
    server=$! mecha=
    for name in INT TERM USR1 HUP; do trap "kill -$name $server 2>/dev/null" "$name"; done
    for _ in $(seq 200); do
        kill -0 "$server" 2>/dev/null || break
        if (exec 3<>"/dev/tcp/127.0.0.1/$inner") 2>/dev/null; then
            "$MECHA" --listen "memcached://127.0.0.1:$port" --to "memcached://127.0.0.1:$inner" --workers 1 \
                --log-level "${MECHA_LOG:-error}" >>"$SUITE_WORK/mecha.log" 2>&1 &
            mecha=$!
            break
        fi
        sleep 0.05
    done
    while kill -0 "$server" 2>/dev/null; do wait "$server"; code=$?; done
    [ -z "$mecha" ] || kill "$mecha" 2>/dev/null
    exit "${code:-1}"
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

case ${0##*/} in
    memcached-debug) serve "$@" ;;
    timedrun) shift; exec "$@" ;;
esac

[ $# -ge 2 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2; }
checkout=$(realpath "$1") mecha=$(realpath "$2") here=$(realpath "$0"); shift 2
[ $# -gt 0 ] || set -- $(cd "$checkout/t" && ls *.t)
export SUITE_WORK; SUITE_WORK=$(mktemp -d)
trap 'rm -rf "$SUITE_WORK"' EXIT
cp -r "$checkout/t" "$SUITE_WORK/t"
for name in memcached-debug timedrun; do install -m 755 "$here" "$SUITE_WORK/$name"; done

# one WAY TEST: leaves the names of what failed in $SUITE_WORK/WAY and how the test ended in $state.
one() {
    local log=$SUITE_WORK/$1.log
    (cd "$SUITE_WORK" && MECHA=$([ "$1" = direct ] || echo "$mecha") \
        timeout "${TEST_SECONDS:-150}" perl -It/lib "t/$2" >"$log" 2>&1)
    code=$?
    grep -a '^not ok' "$log" | sed 's/^not ok [0-9]*/not ok/' | sort >"$SUITE_WORK/$1"
    state="$(grep -ac '^ok' "$log") passed, $(wc -l <"$SUITE_WORK/$1") failed"
    if grep -aq '^1\.\.0' "$log"; then state=skipped
    elif [ $code = 124 ]; then state+=", unfinished"
    elif ! grep -aq '^1\.\.' "$log"; then state+=", died"; fi
    cp "$log" "${KEEP_LOGS:-$SUITE_WORK}/$2.$1.log" 2>/dev/null
}

code=0 differ=0 same=0
for test in "$@"; do
    one direct "$test"; direct=$state
    one through "$test"
    echo "$test: direct $direct; through $state"
    only=$(comm -13 "$SUITE_WORK/direct" "$SUITE_WORK/through")
    [ -z "$only" ] || printf '%s\n' "$only" | uniq -c | head -20 | sed 's/^ */    only through mecha: /'
    # A test that ends early, or skips itself, is a difference too.
    if [ -n "$only" ] || [ "$direct" != "$state" ]; then differ=$((differ + 1)); else same=$((same + 1)); fi
done
echo "$same tests alike, $differ differ"
[ "$differ" = 0 ]
