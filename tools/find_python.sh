#!/usr/bin/env bash
# Prints the path of a Python that can carry a line of the package, or says in one line what is
# missing and how to get it.
#
#     tools/find_python.sh default     Python 3.13, 3.12, 3.11 or 3.10, today's TensorFlow
#     tools/find_python.sh tpu         Python 3.11 or 3.10, the TPU line
#     tools/find_python.sh peers       Python 3.13, 3.12 or 3.11, what is measured beside it
#
# With PYTHON set, only that one is tried.
set -u

case "${1:-}" in
    default) minors="13 12 11 10" ;;
    tpu) minors="11 10" ;;
    peers) minors="13 12 11" ;;
    *) echo "usage: tools/find_python.sh default|tpu|peers" >&2; exit 2 ;;
esac

candidates=()
for minor in $minors; do candidates+=("python3.$minor"); done
candidates+=(python3 python)
if [ -n "${PYTHON:-}" ]; then candidates=("$PYTHON"); fi

# Prints "3.<minor> <executable> <the modules of venv that are missing>".
probe='
import importlib.util, sys
lacks = [m for m in ("venv", "ensurepip", "ssl", "ctypes") if importlib.util.find_spec(m) is None]
print("%d.%d" % sys.version_info[:2], ",".join(lacks) or "-", sys.executable)
'

found=""
incomplete=""
for candidate in "${candidates[@]}"; do
    # A name on the path may be a shim that only complains, so it is tried, not looked up.
    answer=$("$candidate" -c "$probe" 2>/dev/null) || continue
    read -r version lacks executable <<<"$answer"
    for minor in $minors; do
        [ "$version" = "3.$minor" ] || continue
        if [ "$lacks" = "-" ]; then
            printf '%s\n' "$executable"
            exit 0
        fi
        [ -n "$incomplete" ] || incomplete="$executable lacks the standard module(s) $lacks; \
on Debian or Ubuntu: apt-get install python$version-venv"
    done
    found="$found${found:+, }$candidate is Python $version"
done

versions=$(for minor in $minors; do printf '3.%s\n' "$minor"; done | sort -V | paste -sd, | sed 's/,/, /g')
if [ -n "$incomplete" ]; then
    message="$incomplete"
else
    message="needs one of Python $versions (${found:-none found}); \
on Debian or Ubuntu: apt-get install python3 python3-venv"
fi
echo "hmoe: $message; or name another: make PYTHON=/path/to/python ..." >&2
exit 1
