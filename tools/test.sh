#!/usr/bin/env bash
# Set up, lint, check the import contract, run the tests. Arguments go to pytest: tools/test.sh tests/body -k kinematics
set -euo pipefail
cd "$(dirname "$0")/.."
bash tools/setup.sh
.venv/bin/ruff check adhmr launchers tests tools
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-2}" WANDB_MODE="${WANDB_MODE:-offline}"
# What DeepSpeed compiles belongs to this .venv: another clone would compile it anew at each turn.
export TORCH_EXTENSIONS_DIR="${TORCH_EXTENSIONS_DIR:-$PWD/.venv/torch_extensions}"
exec .venv/bin/python -m pytest "$@"
