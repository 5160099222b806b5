#!/usr/bin/env bash
# Looks at nodes before a long run is submitted to them: one line a node, exit code 1 when something is wrong there.
#   srun --nodes=4 --ntasks-per-node=1 [--gpus-per-node=8] bash slurm/check_nodes.sh FOLDER
# FOLDER: where runs will be, on the shared file system (default: the current folder). Each job looks by itself, too,
# at less (the profile's `preflight`, docs/slurm.md).
set -uo pipefail
folder=${1:-.}
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
node=${SLURMD_NODENAME:-$(hostname -s)}
problems=()
facts=()

# The Python that submits runs in the jobs: it must be there, with its packages.
python=${ADHMR_PYTHON:-$root/.venv/bin/python}
if [[ -x $python ]]; then
    "$python" -c 'import submitit, torch' 2>/dev/null || problems+=("$python cannot import torch and submitit")
else
    problems+=("no $python: is this folder on a shared file system?")
fi

# Every node writes a file and sees those of the others.
mine=$folder/.check-${SLURM_JOB_ID:-$$}-$node
if { date +%s.%N >"$mine"; } 2>/dev/null; then
    wanted=${SLURM_JOB_NUM_NODES:-1}
    for ((turn = 0; turn < 100; turn++)); do
        seen=$(find "$folder" -maxdepth 1 -name ".check-${SLURM_JOB_ID:-$$}-*" | wc -l)
        ((seen >= wanted)) && break
        sleep 0.2
    done
    ((seen >= wanted)) || problems+=("in $folder it sees files of $seen of $wanted nodes after 20 s")
    written=$(stat -c %Y "$mine") now=$(date +%s)
    skew=$((now - written > 0 ? now - written - turn / 5 : written - now))
    ((skew <= 5)) || problems+=("its clock is $skew s away from the file system's")
    sleep 2 # the others look for it
    rm -f "$mine"
    free=$(($(df -Pk "$folder" | awk 'NR == 2 {print $4}') / 1048576))
    facts+=("$free GB free in $folder")
    ((free >= 10)) || problems+=("less than 10 GB are free in $folder")
else
    problems+=("cannot write to $folder")
fi
(($(df -Pk /tmp | awk 'NR == 2 {print $4}') >= 1048576)) || problems+=("less than 1 GB is free in /tmp")

# Shared memory is how loader processes hand over batches.
shm=$(($(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 {print $4}') / 1024))
((shm >= 256)) || problems+=("$shm MB in /dev/shm; loader processes need some hundreds")

# Nodes find each other by name.
for other in $(scontrol show hostnames "${SLURM_JOB_NODELIST:-}" 2>/dev/null); do
    getent hosts "$other" >/dev/null || problems+=("does not know the name $other")
done

# GPUs: as many as were asked for, without errors that ask for a repair.
asked=${SLURM_GPUS_ON_NODE:-0}
if ((asked > 0)) && ! command -v nvidia-smi >/dev/null; then
    problems+=("$asked GPUs asked for, no nvidia-smi")
elif ((asked > 0)); then
    found=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>/dev/null | wc -l)
    facts+=("$found GPUs")
    ((found >= asked)) || problems+=("nvidia-smi shows $found GPUs, $asked were asked for")
    ecc=$(nvidia-smi --query-gpu=ecc.errors.uncorrected.volatile.total --format=csv,noheader,nounits 2>/dev/null | awk '$1 > 0' | wc -l)
    ((ecc == 0)) || problems+=("$ecc GPUs with uncorrected memory errors (nvidia-smi -q -d ECC)")
fi

facts+=("$(nproc) CPUs" "$(($(awk '/MemAvailable/ {print $2}' /proc/meminfo) / 1048576)) GB of memory free")
join() { local IFS=';'; local text="$*"; echo "${text//;/; }"; }
if ((${#problems[@]})); then
    echo "$node: BAD: $(join "${problems[@]}")"
    exit 1
fi
echo "$node: ok: $(join "${facts[@]}")"
