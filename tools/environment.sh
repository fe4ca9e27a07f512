#!/usr/bin/env bash
# Makes or mends a virtual environment with the package in it, from a lock file.
#
#     tools/environment.sh default .venv          what training needs
#     tools/environment.sh default .venv dev      and what tests and checks need
#     tools/environment.sh tpu .venv-tpu dev      the same for the TPU line
#     tools/environment.sh default DIR run X.whl  with a built wheel, not the checkout itself
#     tools/environment.sh peers .venv-peers      what `make bench` measures beside the package
#
# uv does the work, since it is several times as fast as pip; where it cannot be had, pip does.
# The locks are complete, so nothing is resolved here (--no-deps).
set -eu

line=$1
folder=$2
purpose=${3:-run}
package=${4:-}
cd "$(dirname "$0")/.."
unset PYTHONHOME PYTHONPATH
# Settings of pip that would put packages elsewhere than into the environment.
export PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 PIP_DISABLE_PIP_VERSION_CHECK=1
UV_VERSION=0.13.9

say() { echo "hmoe: $*"; }

locks=("requirements/$line.txt")
[ "$purpose" = run ] || locks+=("requirements/$line-dev.txt")
for lock in "${locks[@]}"; do
    [ -f "$lock" ] || { say "there is no lock file $lock" >&2; exit 2; }
done

python="$folder/bin/python"
if ! PYTHON="$PWD/$python" tools/find_python.sh "$line" >/dev/null 2>&1; then
    base=$(tools/find_python.sh "$line")
    say "making $folder with $("$base" --version) ($base)"
    rm -rf "$folder"
    if ! "$base" -m venv "$folder" >"$folder.log" 2>&1; then
        cat "$folder.log" >&2
        say "$base could not make $folder; on Debian or Ubuntu, python3-venv may be missing" >&2
        exit 1
    fi
    rm -f "$folder.log"
fi

# Installs what it is told with uv, and with pip where uv fails.
install() {
    if "$python" -m uv --version >/dev/null 2>&1; then
        "$python" -m uv pip install --quiet --python "$python" "$@" && return
        say "uv could not install; trying pip, which takes longer"
    fi
    "$python" -m pip install -qq "$@"
}

if ! "$python" -m uv --version 2>/dev/null | grep -q " $UV_VERSION"; then
    "$python" -m pip install -qq "uv==$UV_VERSION" || say "no uv $UV_VERSION; going on with pip"
fi
# pip's index is uv's, unless uv has one of its own.
if [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]; then
    index=${PIP_INDEX_URL:-$("$python" -m pip config get global.index-url 2>/dev/null || true)}
    [ -z "$index" ] || export UV_DEFAULT_INDEX="$index"
fi

packages=$(cat "${locks[@]}" | sed -n 's/==.*//p' | sort -u | wc -l)
say "installing into $folder from ${locks[*]} (about $packages packages; minutes the first time)"
requirements=()
for lock in "${locks[@]}"; do requirements+=(-r "$lock"); done
started=$SECONDS
if [ "$line" = peers ]; then
    # By pip, since its settings may name a place with PyTorch's builds for processors alone. Where
    # there is none, the build is that for GPUs on Linux, and does not load without their libraries.
    "$python" -m pip install -qq --no-deps "$(grep '^torch==' "${locks[0]}")"
    needs=$("$python" -c 'from importlib.metadata import requires; print(requires("torch"))')
    [[ "$needs" != *nvidia* ]] || requirements+=(-r requirements/peers-cuda.txt)
fi
install --no-deps "${requirements[@]}"
if [ "$line" = peers ]; then
    :  # the package itself stays in its own environment
elif [ -n "$package" ]; then
    install --no-deps "$package"
else
    install --no-deps --no-build-isolation --editable .
fi
say "$folder is ready after $((SECONDS - started)) s"
