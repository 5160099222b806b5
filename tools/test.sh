#!/usr/bin/env bash
# Set up, lint, check the import contract, run the tests. Arguments go to pytest: tools/test.sh tests/body -k kinematics
# Without arguments all tests run, a file at a time in each of four processes, of which one has those on Slurm: much of what
# they do is to wait.
set -euo pipefail
cd "$(dirname "$0")/.."
bash tools/setup.sh
.venv/bin/ruff check adhmr launchers tests tools
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" WANDB_MODE="${WANDB_MODE:-offline}"
# What DeepSpeed compiles belongs to this .venv: another clone would compile it anew at each turn.
export TORCH_EXTENSIONS_DIR="${TORCH_EXTENSIONS_DIR:-$PWD/.venv/torch_extensions}"
if [ $# -gt 0 ]; then
    exec .venv/bin/python -m pytest "$@"
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
.venv/bin/python -m pytest tests/slurm > "$log" 2>&1 &
waiting=$!
code=0
.venv/bin/python -m pytest --ignore tests/slurm --numprocesses 3 --dist loadfile --no-loadscope-reorder || code=$?
wait "$waiting" || code=$?
echo "tests/slurm:"
cat "$log"
exit "$code"
