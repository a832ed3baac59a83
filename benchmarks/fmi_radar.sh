#!/usr/bin/env bash
# Real radar, 5-minute frames, 28 September 2016, Finland: train on the first 28 frames, forecast from the next six.
#
#   .venv/bin/python -m data.build_hrrr --source zarr --path fmi_dbz_20160928.nc --out data/radar.zarr
#   benchmarks/fmi_radar.sh data/radar.zarr runs/radar
#
# Writes RUN_DIR/forecast.zarr, 30 min from each of the six frames 28 to 33; score it with benchmarks/radar.py.
set -euo pipefail
[ $# -eq 2 ] || { echo "error: got $# arguments, expected a store and a run folder. Fix: benchmarks/fmi_radar.sh STORE.zarr RUN_DIR" >&2; exit 2; }
STORE=$(realpath -m "$1")
RUN_DIR=$(realpath -m "$2")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# ---- constants
DAY=2016-09-28
SETTINGS=(--lead 5min --train_end "${DAY}T16:35" --val_end "${DAY}T17:00" --gap 5min --epochs 27 --rollout_epochs 8
    --rollout_hours 0.5 --width 0 --rollout_width 3 --rollout_lr 0.3 --accumulate 1 --base_features 16 --blocks 1 --memory fast
    --amplitude 2 --rollout_amplitude 2 --shift False --validate_every 9 --validate_hours 0.25)
INIT_TIMES=("${DAY}T17:05" "${DAY}T17:10" "${DAY}T17:15" "${DAY}T17:20" "${DAY}T17:25" "${DAY}T17:30")

.venv/bin/python train_deterministic.py --zarr "$STORE" --run_dir "$RUN_DIR" "${SETTINGS[@]}"
.venv/bin/python infer_iterative.py --checkpoint "$RUN_DIR/best.pt" --zarr "$STORE" --init_time "${INIT_TIMES[@]}" \
    --hours 0.5 --out "$RUN_DIR/forecast.zarr"
