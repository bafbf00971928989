#!/usr/bin/env bash
# Moves a Redis to another product under the hands of clients that never stop, on real servers of this machine:
#
#   examples/migrate/run.sh               Redis to Memcached
#   examples/migrate/run.sh redis         Redis to another Redis
#
# Each stage is an edit of mecha's configuration file. In the end no call has failed, and the new side has every key.
# Needs redis-server, redis-cli, memcached, python3 and curl; MECHA names the executable (built here otherwise).
set -euo pipefail

kind=${1:-memcached}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
pids=()
end() {
    touch "$work/stop"
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap end EXIT

say() { printf '\n== %s\n' "$*"; }
fail() { printf 'FAILED: %s\n' "$*" >&2; exit 1; }
free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
# wait_until WHAT COMMAND...: at most a minute.
wait_until() {
    local what=$1 tries=0
    shift
    until "$@"; do
        tries=$((tries + 1))
        [ "$tries" -lt 600 ] || fail "$what"
        sleep 0.1
    done
}

if [ -z "${MECHA:-}" ]; then
    (cd "$here/../.." && cargo build --quiet --bin mecha)
    MECHA=$here/../../target/debug/mecha
fi

old=$(free_port) new=$(free_port) door=$(free_port) admin=$(free_port)
redis-server --port "$old" --bind 127.0.0.1 --save '' --appendonly no >"$work/old.log" &
pids+=($!)
if [ "$kind" = redis ]; then
    redis-server --port "$new" --bind 127.0.0.1 --save '' --appendonly no >"$work/new.log" &
    target="redis://127.0.0.1:$new"
else
    memcached -l 127.0.0.1 -p "$new" -U 0 -u "$(id -un)" 2>"$work/new.log" &
    target="memcached://127.0.0.1:$new"
fi
pids+=($!)
answers() { redis-cli -p "$1" PING >/dev/null 2>&1; }
wait_until "the old Redis does not start" answers "$old"

# Keys that no client will touch during the move: strings, some with a life, and one of every other type.
for number in $(seq 1 500); do
    printf 'SET archive:%s value-%s\n' "$number" "$number"
    printf 'SET session:%s value-%s EX 3600\n' "$number" "$number"
done | redis-cli -p "$old" >/dev/null
redis-cli -p "$old" HSET archive:hash a 1 b 2 >/dev/null
redis-cli -p "$old" RPUSH archive:list a b c >/dev/null
redis-cli -p "$old" SADD archive:set a b c >/dev/null
redis-cli -p "$old" ZADD archive:zset 1 a 2 b >/dev/null

# The only thing that is ever edited. Replaced in one step, so that mecha never reads half of it.
configure() {
    cat >"$work/mecha.yaml.new" <<YAML
listeners:
  - listen: redis://127.0.0.1:$door
    to: $1
${2:+    migrate: { to: new, stage: $2, sweep: 2000, repair: true \}}
clusters:
  old: redis://127.0.0.1:$old
  new: $target
admin: 127.0.0.1:$admin
drain_timeout: 1s
YAML
    mv "$work/mecha.yaml.new" "$work/mecha.yaml"
}
metric() {
    curl -s "http://127.0.0.1:$admin/metrics" |
        awk -v name="$1" 'index($0, name) == 1 && substr($0, length(name) + 1, 1) ~ /[{ ]/ { sum += $NF } END { print sum + 0 }'
}
at_least() { [ "$(printf '%.0f' "$(metric "$1")")" -ge "$2" ]; }
is_zero() { [ "$(metric "$1")" = 0 ]; }
# The next configuration, in force, with clients at work for a moment.
edit() {
    local applied
    applied=$(printf '%.0f' "$(metric mecha_config_applied_total)")
    configure "$@"
    wait_until "the configuration is not applied" at_least mecha_config_applied_total $((applied + 1))
    sleep 1
    printf 'calls so far: old %s, new %s; copies %s, pending %s, compared %s, different %s, fetched %s, failed copies %s\n' \
        "$(metric_of default.old)" "$(metric_of default.new)" "$(metric mecha_migration_copies_total)" \
        "$(metric mecha_migration_pending)" "$(metric mecha_migration_compared_total)" \
        "$(metric mecha_migration_mismatches_total)" "$(metric mecha_migration_backfills_total)" \
        "$(metric mecha_migration_failures_total)"
}
metric_of() {
    curl -s "http://127.0.0.1:$admin/metrics" |
        awk -v route="route=\"$1\"" 'index($0, "mecha_route_calls_total{") == 1 && index($0, route) { sum += $NF } END { print sum + 0 }'
}

configure old
"$MECHA" check "$work/mecha.yaml" >/dev/null
"$MECHA" --config "$work/mecha.yaml" >"$work/mecha.log" 2>&1 &
pids+=($!)
wait_until "mecha does not start" answers "$door"
say "clients use the Redis through mecha, and will not stop before the end"
python3 "$here/load.py" "$door" "$work/stop" "$work/result" &
load=$!
pids+=("$load")

say "old: the migration is configured, nothing else changes"
edit old old
sleep 1
say "dual_write: what is written is copied; the sweep copies the rest"
edit old dual_write
wait_until "the sweep does not end" at_least mecha_migration_sweep_done 1
echo "the sweep has visited every key: $(metric mecha_migration_swept_total)"
say "shadow_read: reads are compared"
edit old shadow_read
wait_until "nothing is compared" at_least mecha_migration_compared_total 100
is_zero mecha_migration_mismatches_total || fail "the answers differ"
say "backfill: the new side answers, and the old one follows"
edit old backfill
say "new: only the new side is used"
edit old new
wait_until "copies do not end" is_zero mecha_migration_pending
# The figures of a migration end with it.
lost=$(metric mecha_migration_lost_total) refused=$(metric mecha_migration_refused_total)
say "the migration is over: \`to: new\`, and the old Redis is stopped"
edit new
kill "${pids[0]}"
sleep 1

touch "$work/stop"
wait "$load"
read -r calls failed counted <"$work/result"
say "what the clients say: $calls calls, $failed failed"
[ "$failed" = 0 ] || fail "calls have failed"
[ "$calls" -gt 500 ] || fail "the clients have hardly done anything"
[ "$lost" = 0 ] && [ "$refused" = 0 ] || fail "keys were not copied: $lost lost, $refused refused"
through() { redis-cli -p "$door" "$@"; }
[ "$(through GET visits)" = "$counted" ] || fail "visits are $(through GET visits), and $counted were counted"
for number in $(seq 1 50 500); do
    [ "$(through GET "archive:$number")" = "value-$number" ] || fail "archive:$number is missing"
    [ "$(through TTL "session:$number")" -gt 3000 ] || fail "session:$number has lost its life"
done
[ "$(through HGET archive:hash b)" = 2 ] || fail "the hash is missing"
[ "$(through LRANGE archive:list 0 -1 | tr '\n' ' ')" = "a b c " ] || fail "the list is missing"
[ "$(through SCARD archive:set)" = 3 ] || fail "the set is missing"
[ "$(through ZSCORE archive:zset b)" = 2 ] || fail "the sorted set is missing"
say "moved: every key is on the new side, and no client has noticed"
