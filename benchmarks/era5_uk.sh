#!/usr/bin/env bash
# ERA5 2 m temperature over the United Kingdom, March 2019: train on the first 25 days, score the last 5.
#
#   .venv/bin/python -m data.build_hrrr --source zarr --path era5_uk_t2m_744h.nc --out data/era5_uk.zarr
#   benchmarks/era5_uk.sh data/era5_uk.zarr runs/era5_uk
#
# TRAIN.zarr may end with the 25 days; then there is nothing to score, and RUN_DIR/best.pt is the result. Otherwise
# writes RUN_DIR/forecast.zarr, 24 h from every test hour that has them (all 24 hours of the day), and scores.json.
set -euo pipefail
[ $# -eq 2 ] || { echo "error: got $# arguments, expected a store and a run folder. Fix: benchmarks/era5_uk.sh TRAIN.zarr RUN_DIR" >&2; exit 2; }
STORE=$(realpath -m "$1")
RUN_DIR=$(realpath -m "$2")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# ---- constants
TRAIN_END=2019-03-22T23 # validation: 23 March 23 UTC (a day later) to the end of the 25 days
VAL_END=2019-03-25T23   # test: from 26 March 23 UTC, five days
SETTINGS=(--batch_size 8 --accumulate 1 --base_features 16 --memory fast --epochs 50 --rollout_epochs 10 --rollout_hours 24
    --rollout_lr 0.1 --rollout_width 0 --width 0 --season 0 --history 24 --regression True --validate_every 10 --validate_hours 24)

.venv/bin/python train_deterministic.py --zarr "$STORE" --run_dir "$RUN_DIR" --train_end "$TRAIN_END" --val_end "$VAL_END" "${SETTINGS[@]}"
if .venv/bin/python - "$STORE" "$VAL_END" <<'PY'; then
import sys

import numpy as np

from data.store import Store

sys.exit(int(Store(sys.argv[1]).times.max() < np.datetime64(sys.argv[2]) + np.timedelta64(49, "h")))
PY
    .venv/bin/python infer_iterative.py --checkpoint "$RUN_DIR/best.pt" --zarr "$STORE" --init_time test --init_every 1h \
        --hours 24 --out "$RUN_DIR/forecast.zarr"
    .venv/bin/python verify_forecast.py --forecast "$RUN_DIR/forecast.zarr" --zarr "$STORE" --out "$RUN_DIR/scores.json"
else
    echo "the store ends before the test days: nothing to score; the result is $RUN_DIR/best.pt"
fi
