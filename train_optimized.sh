#!/usr/bin/env bash
# Train, forecast and score overnight; run again after any interruption and it goes on.
#
#   ./train_optimized.sh demo                                    synthetic storms, a result in minutes
#   ./train_optimized.sh                                         the constants below
#   ./train_optimized.sh STORE.zarr [RUN_DIR] [--CONSTANT VALUE ...]   further arguments go to training (--boundary also to forecasts)
#   ./train_optimized.sh setup [dev]                             only make .venv and install the packages
#
# PYTHON=python3.12 ./train_optimized.sh ... picks the interpreter (3.11 to 3.13) that .venv is made with.
set -euo pipefail
HERE=$PWD # relative paths on the command line are those of the caller
cd "$(dirname "${BASH_SOURCE[0]}")"

# ---- constants
STORE=data/hrrr.zarr # training store
RUN_DIR=runs/hrrr    # checkpoints, log, forecast, scores, figures
HOURS=24             # length of the forecasts
DEMO_DIR=runs/demo
DEMO_HOURS=3288      # hours of synthetic weather, 137 days: 100 to train on, 24 to validate on, 11 to test on
DEMO_START=2023-04-10T00
OTHER_HOURS=1200     # hours of other weather, the same season of another seed, to test on
OTHER_START=2024-06-01T00
OTHER_EVERY=19h      # start times have all hours of the day
DEMO_TRAINING=(--batch_size 8 --accumulate 2 --base_features 32 --epochs 18 --validate_every 1 --memory fast
    --train_end 2023-07-18T11 --val_end 2023-08-12T12 --boundary "$DEMO_DIR/host.zarr")

# glibc gives large buffers back to the system after each use, which costs a CPU run a tenth of its time: let it keep them
export MALLOC_MMAP_THRESHOLD_=1000000000 MALLOC_TRIM_THRESHOLD_=8000000000
# threads that wait do not spin: beside another busy process a spinning pair is twenty times slower
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-PASSIVE}
# blocks that can grow leave fewer gaps in a GPU's memory
export PYTORCH_CUDA_ALLOC_CONF=${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}

CORES=${OMP_NUM_THREADS:-$(getconf _NPROCESSORS_ONLN)}
VERSION='import sys; print(sys.version_info[:2])'

say() { printf '== %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 2; }

find_python() { # the interpreter for a new .venv
    local candidate
    for candidate in "${PYTHON:-}" python3.12 python3.13 python3.11 python3; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
            echo "$candidate"; return
        fi
        [ "$candidate" != "${PYTHON:-}" ] || fail "PYTHON: got $PYTHON, expected Python 3.11 to 3.13. Fix: name one that runs"
    done
    fail "got no Python 3.11 to 3.13 on the PATH, expected one. Fix: install it, or name it with PYTHON=/path/to/python3.12"
}

place() { # PATH: as it is seen from here
    if [[ -z $1 || $1 == /* || $1 == *://* || $HERE == "$PWD" ]]; then echo "$1"; else echo "$HERE/$1"; fi
}

constants() { # [--CONSTANT VALUE ...]: TRAINING, the same with the place of --boundary, and HOST, that alone for forecasts
    local word last=
    TRAINING=() HOST=()
    for word in "$@"; do
        [[ $word != --zarr* && $word != --run_dir* ]] || fail "$word: got it as a constant, expected a place. Fix: ./train_optimized.sh STORE.zarr RUN_DIR [--CONSTANT VALUE ...]"
        if [[ $word == --boundary=* ]]; then last=--boundary word=${word#*=}; TRAINING+=("$last"); fi
        if [ "$last" = --boundary ]; then word=$(place "$word"); HOST=(--boundary "$word"); fi
        TRAINING+=("$word")
        last=$word
    done
}

setup() { # make .venv where it is missing, install what changed; arguments: requirement files
    local file sum python
    if [ ! -x .venv/bin/python ]; then
        python=$(find_python) || exit 2
        say "making .venv with $python"
        rm -rf .venv
        "$python" -m venv .venv || { rm -rf .venv; fail "$python cannot make a .venv. Fix: install its venv module (Debian: python3-venv)"; }
    elif [ -n "${PYTHON:-}" ]; then
        python=$(find_python) || exit 2
        [ "$("$python" -c "$VERSION")" = "$(.venv/bin/python -c "$VERSION")" ] ||
            fail "PYTHON: got $PYTHON, but .venv is $(.venv/bin/python --version). Fix: leave PYTHON out, or remove .venv and run again"
    fi
    for file in "$@"; do
        sum=$(cksum <"$file")
        [ "$(cat ".venv/$file.installed" 2>/dev/null)" != "$sum" ] || continue
        say "installing $file (minutes the first time)"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$file" ||
            fail "the packages of $file could not be installed (see above). Fix: check the network and run again"
        echo "$sum" >".venv/$file.installed"
    done
}

train() { # [--CONSTANT VALUE ...]: train on all visible GPUs, or on one GPU or the CPU
    local gpus
    gpus=$(.venv/bin/python -c 'import torch; print(torch.cuda.device_count())')
    if [ "$gpus" -gt 1 ]; then
        .venv/bin/python -m torch.distributed.run --standalone --nproc_per_node="$gpus" train_deterministic.py "$@"
    elif [ "$gpus" -eq 0 ] && [ -n "${HALVES:-}" ] && [ "$CORES" -gt 1 ]; then
        halves "$@"
    else
        .venv/bin/python train_deterministic.py "$@"
    fi
}

halves() { # [--CONSTANT VALUE ...]: train in two processes on half of the cores each, twice as fast for small fields
    local port
    port=$(.venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])')
    local group=(MASTER_ADDR=127.0.0.1 MASTER_PORT="$port" WORLD_SIZE=2 LOCAL_WORLD_SIZE=2 OMP_NUM_THREADS=$((CORES / 2)))
    env "${group[@]}" RANK=1 .venv/bin/python train_deterministic.py "$@" 2>/dev/null &
    env "${group[@]}" RANK=0 .venv/bin/python train_deterministic.py "$@" # it alone prints; a signal to it stops both
    wait
}

result() { # CHECKPOINT STORE FOLDER CLIMATE [--CONSTANT VALUE ...]: forecasts from test hours, scores, figures
    local checkpoint=$1 store=$2 folder=$3 climate=$4
    shift 4
    say "forecast $HOURS h from test hours into $folder/forecast.zarr"
    .venv/bin/python infer_iterative.py --checkpoint "$checkpoint" --zarr "$store" --init_time test --hours "$HOURS" \
        --out "$folder/forecast.zarr" "$@"
    say "score against truth, persistence, climatology, the same hour yesterday and extrapolation"
    .venv/bin/python verify_forecast.py --forecast "$folder/forecast.zarr" --zarr "$store" --climate "$climate" \
        --out "$folder/scores.json"
}

synthetic() { # STORE [--CONSTANT VALUE ...]: a store of synthetic storms, where it is not there yet
    [ ! -e "$1" ] || return 0
    say "make synthetic storms in $1"
    exec .venv/bin/python -m data.synthetic_storms --out "$@" # in a subshell, whose process it becomes
}

host() { # STORE HOST: a coarse host with errors, made of a synthetic store, where it is not there yet
    [ -e "$2" ] || .venv/bin/python -m data.synthetic_host --zarr "$1" --out "$2"
}

other_seed() { # FOLDER [--CONSTANT VALUE ...]: the demo's forecasts, on the weather of another seed
    local folder=$1
    shift
    result "$DEMO_DIR/best.pt" "$DEMO_DIR/other_seed.zarr" "$folder" "$DEMO_DIR/store.zarr" --init_every "$OTHER_EVERY" --batch_size 5 "$@"
}

report() { # RUN_DIR STORE
    .venv/bin/python make_report.py --run_dir "$1" --zarr "$2"
}

case "${1:-}" in
setup)
    [[ ${2:-dev} == dev && $# -le 2 ]] || fail "setup: got ${*:2}, expected dev or nothing. Fix: ./train_optimized.sh setup dev"
    setup requirements.txt ${2:+requirements-dev.txt}
    say "done: .venv is ready"
    ;;
demo)
    shift
    constants "$@"
    setup requirements.txt
    (synthetic "$DEMO_DIR/other_seed.zarr" --hours "$OTHER_HOURS" --seed 1 --start "$OTHER_START") & # on another core
    trap 'kill %1 2>/dev/null || true' EXIT # what runs in the background does not hear Ctrl-C
    (synthetic "$DEMO_DIR/store.zarr" --hours "$DEMO_HOURS" --start "$DEMO_START")
    wait %1
    trap - EXIT
    host "$DEMO_DIR/store.zarr" "$DEMO_DIR/host.zarr"
    host "$DEMO_DIR/other_seed.zarr" "$DEMO_DIR/other_host.zarr"
    say "train in $DEMO_DIR"
    HALVES=1 train --zarr "$DEMO_DIR/store.zarr" --run_dir "$DEMO_DIR" "${DEMO_TRAINING[@]}" ${TRAINING[@]+"${TRAINING[@]}"}
    say "forecast weather of another seed, with the host at the edge and without it, each on half of the cores"
    export OMP_NUM_THREADS=$((CORES > 1 ? CORES / 2 : 1))
    set -m # what runs in the background is a group of its own, which ends as one
    (other_seed "$DEMO_DIR/no_host") >"$DEMO_DIR/no_host.txt" 2>&1 &
    set +m
    trap 'kill %1 2>/dev/null || true' EXIT
    other_seed "$DEMO_DIR" --boundary "$DEMO_DIR/other_host.zarr"
    say "the same without a host"
    wait %1 || { cat "$DEMO_DIR/no_host.txt"; exit 2; }
    trap - EXIT
    cat "$DEMO_DIR/no_host.txt" && rm "$DEMO_DIR/no_host.txt"
    report "$DEMO_DIR" "$DEMO_DIR/other_seed.zarr"
    say "done: report.html, forecast.zarr, scores.json and figures (*.png) are in $DEMO_DIR; those without a host in $DEMO_DIR/no_host"
    ;;
-h | --help)
    sed -n '2,9p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//'
    ;;
*)
    if [ $# -gt 0 ] && [[ $1 != --* ]]; then STORE=$(place "$1"); RUN_DIR=runs/$(basename "$1" .zarr); shift; fi
    if [ $# -gt 0 ] && [[ $1 != --* ]]; then RUN_DIR=$(place "$1"); shift; fi
    [[ $STORE == *://* || -e $STORE ]] || fail "$STORE: no such store. Fix: build one with '.venv/bin/python -m data.build_hrrr' (see README), or try ./train_optimized.sh demo"
    constants "$@"
    setup requirements.txt
    say "train on $STORE in $RUN_DIR"
    train --zarr "$STORE" --run_dir "$RUN_DIR" ${TRAINING[@]+"${TRAINING[@]}"}
    result "$RUN_DIR/best.pt" "$STORE" "$RUN_DIR" "" ${HOST[@]+"${HOST[@]}"}
    report "$RUN_DIR" "$STORE"
    say "done: report.html, forecast.zarr, scores.json and figures (*.png) are in $RUN_DIR"
    ;;
esac
