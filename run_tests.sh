#!/usr/bin/env bash
# Make the environment complete, then run the tests; arguments go to pytest.
#
#   ./run_tests.sh
#   ./run_tests.sh -k loss -x
#   PYTHON=python3.12 ./run_tests.sh        picks the interpreter that .venv is made with
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

./train_optimized.sh setup dev
exec .venv/bin/python -m pytest "$@"
