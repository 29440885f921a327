#!/usr/bin/env bash
# The quick suite in two parts at once: graphs whose times count, one after the other, and beside them, on what they
# leave of the processor, all other tests in a process for each core. Arguments go to pytest; a part that has none of
# the tests that they name is left out.
set -uo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

# Every part is a group of processes of its own, which is ended as a whole.
set -m

# One more than cores: some tests wait for processes.
workers=$(nproc)
workers=$((workers < 8 ? workers + 1 : 8))
# Graphs have the cores at once whenever they want them, as a robot has beside training.
behind="chrt --idle 0"
$behind true 2>/dev/null || behind="nice -n 19"

# Parts on ROS domains of their own; each process of the one behind adds its number (conftest.py).
domain=${ROS_DOMAIN_ID:-$((20 + RANDOM % 60))}
if [ "$domain" -gt 200 ]; then
    echo "test: ROS_DOMAIN_ID: expected at most 200, as the tests use some more from there on, found $domain" >&2
    exit 2
fi

folder=$(mktemp -d)
parts=()
end() {
    trap '' INT TERM
    for part in "${parts[@]}"; do
        kill -INT -- "-$part" 2>/dev/null
    done
    wait "${parts[@]}" 2>/dev/null
    rm -rf "$folder"
}
trap end EXIT
trap 'exit 130' INT TERM

ROS_DOMAIN_ID=$domain $behind .venv/bin/python -m pytest -m "not slow and not graph" --numprocesses "$workers" "$@" \
    >"$folder/log" 2>&1 &
others=$!
ROS_DOMAIN_ID=$((domain + 20)) .venv/bin/python -m pytest -m "not slow and graph" "$@" &
graphs=$!
parts=("$others" "$graphs")

# A signal ends `wait` at once, but no command in the foreground.
codes=()
wait "$graphs"
codes+=($?)
parts=("$others")
tail --pid="$others" -n +1 -f "$folder/log" &
shown=$!
wait "$others"
codes+=($?)
parts=()
wait "$shown"

# 5 is no such tests.
for code in "${codes[@]}"; do
    [ "$code" -eq 0 ] || [ "$code" -eq 5 ] || exit 1
done
if [ "${codes[*]}" = "5 5" ]; then
    echo "test: no test was found" >&2
    exit 5
fi
