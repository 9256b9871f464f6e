#!/usr/bin/env bash
# On a machine with a GPU: which it is, the tests that need one, then the table. Nothing stops what comes after it; the
# status is 1 if anything failed.
#   gpu.sh [--bundle DIR] [--no-tests | --no-table] [arguments of gpu.py]
# $PYTHON must have servolley, the test extra's packages, and onnxruntime-gpu instead of onnxruntime: ./dev gpu sees to
# that, and where there is no network --bundle does, with what ./dev gpu-bundle has packed.
set -uo pipefail
cd "$(dirname "$(readlink -f "$0")")/.." || exit

python=${PYTHON:-python3}
tests=yes table=yes bundle=""
while :; do
  case ${1:-} in
    --bundle) bundle=$2; shift 2 ;;
    --no-tests) tests=""; shift ;;
    --no-table) table=""; shift ;;
    *) break ;;
  esac
done
if [ -n "$bundle" ]; then
  "$python" benchmarks/gpu_unbundle.py "$bundle" || exit
  # The C++ tests of the device room came along.
  chmod +x "$bundle/wheels/device_tests"
  SERVOLLEY_TEST_BUILD=$(readlink -f "$bundle/wheels")
  export SERVOLLEY_TEST_BUILD
fi
export PYTHONUNBUFFERED=1
nvidia-smi -L || echo "gpu.sh: nvidia-smi does not answer"

verdict="not run" failed=0
if [ -n "$tests" ]; then
  timeout --kill-after=10 120 "$python" -m benchmarks.gpu_probe
  mapfile -t files < <(grep -rl --include='test_*.py' 'mark\.gpu' tests)
  limit=()
  if "$python" -c 'import pytest_timeout' 2>/dev/null; then limit=(--timeout=60); fi
  # Interrupted, pytest ends the servers that it has started.
  log=$(mktemp)
  timeout --signal=INT --kill-after=20 150 \
    "$python" -m pytest -m gpu -p no:cacheprovider "${limit[@]}" "${files[@]}" | tee "$log"
  status=${PIPESTATUS[0]}
  case $status in
    0) verdict=passed ;;
    124) verdict="not finished in time" failed=1 ;;
    *) verdict=FAILED failed=1 ;;
  esac
  summary=$(tail -n 1 "$log" | sed 's/^[= ]*//; s/[= ]*$//')
  case $status/$summary in 0/*passed*) ;; 0/*) verdict="none ran" failed=1 ;; esac
  verdict+=" ($summary)"
  rm -f "$log"
fi
if [ -n "$table" ]; then
  "$python" benchmarks/gpu.py "$@" || failed=1
fi
echo "gpu.sh: tests on the GPU: $verdict"
exit $failed
