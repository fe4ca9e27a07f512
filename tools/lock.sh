#!/usr/bin/env bash
# Writes the lock files from setup.py and the .in files; keeps what is locked, unless told
# `--upgrade`. Each lock holds for all Pythons and platforms of its line.
set -eu

cd "$(dirname "$0")/.."
uv() { .venv/bin/python -m uv "$@"; }

# lock NAME PYTHON INPUT... : one lock file, for PYTHON and above, without what $left_out lists.
left_out=requirements/left-out.txt
lock() {
    local name=$1 python=$2
    shift 2
    local file="requirements/$name.txt" made
    echo "hmoe: locking $file"
    made=$(mktemp)
    if [ -f "$file" ]; then cp "$file" "$made"; fi
    uv pip compile --quiet --universal --python .venv/bin/python --python-version "$python" \
        --excludes "$left_out" --no-header --no-annotate "${upgrade[@]}" \
        --output-file "$made" "$@"
    {
        echo "# Made by \`make lock\` for Python $python and above; change the .in files or setup.py."
        grep -v '^#' "$made"
    } >"$file"
    rm "$made"
}

upgrade=("$@")
lock default 3.10 setup.py requirements/default.in \
    --overrides requirements/default-overrides.txt
lock tpu 3.10 setup.py requirements/tpu.in --extra tpu
lock default-dev 3.10 requirements/dev.in --constraints requirements/default.txt
lock tpu-dev 3.10 requirements/dev.in --constraints requirements/tpu.txt

# What only PyTorch's builds for GPUs need stands apart; tools/environment.sh has the reason.
left_out=requirements/peers-left-out.txt
cat requirements/peers-cuda.txt >>requirements/peers.txt
lock peers 3.11 requirements/peers.in --constraints requirements/default.txt \
    --overrides requirements/default-overrides.txt
grep -E '^(#|nvidia-|cuda-)' requirements/peers.txt >requirements/peers-cuda.txt
sed -i -E '/^(nvidia-|cuda-)/d' requirements/peers.txt
