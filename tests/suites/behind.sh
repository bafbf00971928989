#!/bin/bash
# Stands in for the program `memcached` in suites that start their servers themselves: under that name, or as
# `memcached-debug`, it starts what its flags describe, and with MECHA set (the built program) a mecha before it, where the
# suite expects the server: on its port, or its Unix socket, with its certificate. BACK says what is behind that mecha:
# `memcached` (the server that the flags describe), `redis` or `embedded`. The suite's signals are for the server; mecha
# ends with it. REAL_MEMCACHED is the server's own program. As `timedrun` it runs the command behind its first word.
set -u

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# listens PORT: whether somebody does.
listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

[ "${0##*/}" != timedrun ] || { shift; exec "$@"; }
real=${REAL_MEMCACHED:-/usr/bin/memcached}
args=() door= secure= cert= key= daemon= asks=
while [ $# -gt 0 ]; do
    case $1 in
        -h | -V | -i | --version) asks=1; args+=("$1") ;;
        -d) daemon=1; args+=("$1") ;;
        -p | -s) door=$1$2; shift ;;
        -p* | -s*) door=$1 ;;
        --port=*) door=-p${1#*=} ;;
        --port) door=-p$2; shift ;;
        -Z | --enable-ssl) secure=s; tls+=("$1") ;;
        # Only a build that drops privileges knows this one.
        -o) [ "$2" = relaxed_privileges ] || {
            case $2 in
                ssl_key=*) key=${2#ssl_key=}; tls+=(-o "$2") ;;
                ssl_chain_cert=*) cert=${2#ssl_chain_cert=}; tls+=(-o "$2") ;;
                ssl_*) tls+=(-o "$2") ;;
                *) args+=(-o "$2") ;;
            esac
        }; shift ;;
        *) args+=("$1") ;;
    esac
    shift
done
[ -n "$door" ] || door=-p11211
if [ -z "${MECHA:-}" ] || [ -n "$daemon$asks" ]; then
    [ "$(id -u)" != 0 ] || args+=(-u root)
    exec "$real" "${args[@]}" ${tls+"${tls[@]}"} "${door:0:2}" "${door:2}"
fi
inner=$(free_port)
case ${BACK:-memcached} in
    memcached)
        [ "$(id -u)" != 0 ] || args+=(-u root)
        "$real" "${args[@]}" -p "$inner" & to=memcached://127.0.0.1:$inner ;;
    redis) redis-server --port "$inner" --bind 127.0.0.1 --save "" --dir /tmp >/dev/null & to=redis://127.0.0.1:$inner ;;
    # Somebody must be there for the signals.
    embedded) (trap 'exit 0' INT TERM USR1; while :; do sleep 0.1; done) & to=embedded:// inner= ;;
esac
server=$! mecha= code=
for name in INT TERM USR1 HUP; do trap "kill -$name $server 2>/dev/null" "$name"; done
for _ in $(seq 200); do
    kill -0 "$server" 2>/dev/null || break
    if [ -z "$inner" ] || listens "$inner"; then
        case $door in
            -p*) at=memcached$secure://127.0.0.1:${door:2} ;;
            *) at=memcached$secure+unix://$(realpath "${door:2}") ;;
        esac
        "$MECHA" --listen "$at" --to "$to" --workers 1 --log-level "${MECHA_LOG:-warn}" \
            ${secure:+--tls-cert "$cert" --tls-key "${key:-$cert}"} >>"${MECHA_LOG_FILE:-/dev/null}" 2>&1 &
        mecha=$!
        break
    fi
    sleep 0.05
done
# A trap ends a wait early.
while kill -0 "$server" 2>/dev/null; do wait "$server"; code=$?; done
[ -n "$code" ] || { wait "$server"; code=$?; }
[ -z "$mecha" ] || kill "$mecha" 2>/dev/null
exit "$code"
