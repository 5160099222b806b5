#!/usr/bin/env bash
# The whole pipeline on the embedded data set, on a CPU: data, base model, scorer, preferences, alignment, report.
# Interrupted, it continues where it stopped; finished, it says so. Arguments go to the pipeline: tools/demo.sh output=runs/small data.scale=0.5
set -euo pipefail
cd "$(dirname "$0")/.."
bash tools/setup.sh
exec .venv/bin/adhmr pipeline configs/pipelines/demo.yaml "$@"
