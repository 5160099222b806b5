#!/usr/bin/env bash
# Make or reuse .venv with everything ADHMR needs. Safe to run again: it does nothing when requirements.txt has not changed.
#   --with-slurm       also install Slurm's Debian packages, for a cluster on this machine (slurm/README.md)
#   ADHMR_PYTHON       the interpreter to build .venv with (default: python3)
#   ADHMR_TORCH_INDEX  a package index with CPU builds of torch, for machines without a GPU (default: the configured one)
set -euo pipefail
cd "$(dirname "$0")/.."
python="${ADHMR_PYTHON:-python3}"
case "${1:-}" in
    "") ;;
    --with-slurm) bash slurm/local_cluster.sh install ;;
    *) echo "setup: unknown option $1; there is --with-slurm" >&2; exit 2 ;;
esac

# Debian packages, when this is a bare machine and we may install them: venv to make .venv, a compiler for DeepSpeed's CPU op.
need=()
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { "$python" --version 2>/dev/null && { echo "setup: Python 3.11 or newer is needed; set ADHMR_PYTHON" >&2; exit 1; }; need+=(python3); }
"$python" -c 'import ensurepip, venv' 2>/dev/null || need+=(python3-venv)
command -v g++ >/dev/null || need+=(g++)
if [ "${#need[@]}" -gt 0 ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "setup: installing ${need[*]}"
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${need[@]}" >/dev/null
    else
        echo "setup: missing ${need[*]}: install them (apt-get install ${need[*]}) and run this again" >&2
        [ "${need[*]}" = "g++" ] || exit 1      # only ZeRO on a CPU needs the compiler
    fi
fi

[ -x .venv/bin/python ] || "$python" -m venv .venv
gpu=cpu; command -v nvidia-smi >/dev/null && nvidia-smi -L >/dev/null 2>&1 && gpu=cuda
stamp="$(cat requirements.txt pyproject.toml tools/setup.sh | sha256sum | cut -d' ' -f1) $gpu $(pwd)"
if [ "$(cat .venv/.adhmr-setup 2>/dev/null || true)" = "$stamp" ]; then
    exit 0
fi
echo "setup: installing into .venv ($gpu; a few minutes the first time)"
pip() { .venv/bin/python -m pip "$@" --disable-pip-version-check -q 2> >(grep -v "is ignored: it is neither a file nor a directory" >&2); }
constraint=()
if [ "$gpu" = cpu ]; then
    # A fixed version lets pip prefer a CPU build ("2.13.0+cpu") where the configured index or a local folder has one.
    .venv/bin/python -c 'import torch' 2>/dev/null || pip install "torch==2.13.0" ${ADHMR_TORCH_INDEX:+--index-url "$ADHMR_TORCH_INDEX"}
    # Else the newest torchvision would bring the newest torch, with gigabytes of CUDA, in place of the CPU build.
    .venv/bin/python -W ignore -c 'import torch; print("torch==" + torch.__version__.split("+")[0])' > .venv/.adhmr-torch
    constraint=(-c .venv/.adhmr-torch)
fi
pip install -r requirements.txt "${constraint[@]}"
pip install --no-deps --no-build-isolation -e . 2>/dev/null || { pip install setuptools wheel; pip install --no-deps --no-build-isolation -e .; }
echo "$stamp" > .venv/.adhmr-setup
.venv/bin/python -c 'import torch; print("setup: ready, torch", torch.__version__)'
