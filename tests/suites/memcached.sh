#!/bin/bash
# Runs Memcached's own tests on servers that they start themselves, first directly and then through a mecha before each
# of them, and prints what fails only through mecha.
#
#   tests/suites/memcached.sh CHECKOUT MECHA [TEST...]
#
# CHECKOUT is a source tree of the version that is installed as memcached; MECHA is the built program; TEST is a name as
# in CHECKOUT/t, all of them without one. Nothing of the suite is changed: it starts the program `memcached-debug` of its
# tree, which here is `behind.sh`. Exit code 1 if there is a difference. TEST_SECONDS (150) is the time for one test,
# KEEP_LOGS a folder for what the tests say. RUN_SASL_TESTS and SSL_TEST have the meaning that the suite gives them.
set -u
[ $# -ge 2 ] || { sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 2; }
checkout=$(realpath "$1") mecha=$(realpath "$2") here=$(dirname "$(realpath "$0")"); shift 2
[ $# -gt 0 ] || set -- $(cd "$checkout/t" && ls *.t)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$checkout/t" "$work/t"
for name in memcached-debug timedrun; do install -m 755 "$here/behind.sh" "$work/$name"; done

# one WAY TEST: leaves the names of what failed in $work/WAY and how the test ended in $state.
one() {
    local log=$work/$1.log
    (cd "$work" && MECHA=$([ "$1" = direct ] || echo "$mecha") \
        timeout "${TEST_SECONDS:-150}" perl -It/lib "t/$2" >"$log" 2>&1)
    code=$?
    grep -a '^not ok' "$log" | sed 's/^not ok [0-9]*/not ok/' | sort >"$work/$1"
    state="$(grep -ac '^ok' "$log") passed, $(wc -l <"$work/$1") failed"
    if grep -aq '^1\.\.0' "$log"; then state=skipped
    elif [ $code = 124 ]; then state+=", unfinished"
    elif ! grep -aq '^1\.\.' "$log"; then state+=", died"; fi
    cp "$log" "${KEEP_LOGS:-$work}/$2.$1.log" 2>/dev/null
}

code=0 differ=0 same=0
for test in "$@"; do
    one direct "$test"; direct=$state
    one through "$test"
    echo "$test: direct $direct; through $state"
    only=$(comm -13 "$work/direct" "$work/through")
    [ -z "$only" ] || printf '%s\n' "$only" | uniq -c | head -20 | sed 's/^ */    only through mecha: /'
    # A test that ends early, or skips itself, is a difference too.
    if [ -n "$only" ] || [ "$direct" != "$state" ]; then differ=$((differ + 1)); else same=$((same + 1)); fi
done
echo "$same tests alike, $differ differ"
[ "$differ" = 0 ]
