#!/usr/bin/env bash
# On a machine with a GPU: which it is, the tests that need one, then the table (arguments go to gpu.py). $PYTHON must
# have servolley with its C++ tests built beside it, the test extra's packages, and onnxruntime-gpu instead of
# onnxruntime; ./dev gpu sees to that.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

python=${PYTHON:-python3}
nvidia-smi -L
"$python" -m pytest -m gpu
exec "$python" benchmarks/gpu.py "$@"
