#!/bin/sh
# Make .venv from the system's Python, with uv inside it and the exact versions of requirements.lock.
set -eu

python="" seen=""
for candidate in python3 python3.12 python3.11; do
    version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    seen="$seen $candidate is $version;"
    case $version in 3.11 | 3.12) python=$candidate && break ;; esac
done
if [ -z "$python" ]; then
    echo "pcpad needs Python 3.11 or 3.12.${seen:- no python3 was found.}" >&2
    echo "Install one of them, or use an environment of your own that has torch and timm: make ... PYTHON=/path/to/python" >&2
    exit 1
fi

echo "setting up .venv with $python ($version): about 6 GB, once; minutes on a slow line" >&2
if ! "$python" -m venv .venv; then
    echo "$python cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2
    exit 1
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.lock
# compiled once here, not by each process where Python may not write its cache: 4 s to import torch and timm, not 10
.venv/bin/uv pip install --quiet --compile-bytecode --python .venv/bin/python --require-hashes -r requirements.lock
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
touch .venv/.ready
