#!/usr/bin/env bash
# The quick suite in two parts: first in a process for each core, then one after the other the graphs whose times count.
# Arguments go to pytest; a part that has none of the tests that they name is left out.
set -uo pipefail
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."

# One more than cores: some tests wait for processes.
workers=$(nproc)
workers=$((workers < 8 ? workers + 1 : 8))

ran=0
failed=0
part() {
    .venv/bin/python -m pytest "$@"
    case $? in
    0) ran=1 ;;
    5) ;; # no such tests
    *) failed=1 ;;
    esac
}

part -m "not slow and not graph" --numprocesses "$workers" "$@"
part -m "not slow and graph" "$@"
if [ $failed -eq 0 ] && [ $ran -eq 0 ]; then
    echo "test: no test was found" >&2
    exit 5
fi
exit $failed
