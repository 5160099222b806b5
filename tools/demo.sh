#!/usr/bin/env bash
# The whole pipeline on the embedded data set, on a CPU: data, base model, scorer, preferences, alignment, report.
# Interrupted, it continues where it stopped; finished, it says so. Arguments go to the pipeline: tools/demo.sh output=runs/small data.scale=0.5
# With --slurm as the first argument: the same as jobs of a real Slurm on this machine (as root), in demo-slurm/.
set -euo pipefail
cd "$(dirname "$0")/.."
if [ "${1:-}" != --slurm ]; then
    bash tools/setup.sh
    exec .venv/bin/adhmr pipeline configs/pipelines/demo.yaml "$@"
fi
shift
bash tools/setup.sh --with-slurm
output=demo-slurm
for word in "$@"; do [[ $word == output=* ]] && output=${word#output=}; done
ours=; bash slurm/local_cluster.sh status >/dev/null 2>&1 || ours=yes   # what we start, we stop
bash slurm/local_cluster.sh start
eval "$(bash slurm/local_cluster.sh env)"
code=0
.venv/bin/adhmr pipeline configs/pipelines/demo.yaml --cluster slurm-local --wait output="$output" "$@" || code=$?
if [ "$code" = 130 ]; then
    echo "demo: the jobs go on; the same command waits for them, \`bash slurm/local_cluster.sh stop\` ends them" >&2
elif [ -n "$ours" ]; then
    bash slurm/local_cluster.sh stop
fi
[ "$code" != 0 ] || echo "demo: the report is $output/report.html; each stage's logs are in $output/STAGE/launch/logs"
exit "$code"
