#!/usr/bin/env bash
# A real Slurm cluster of several nodes on this one machine, for trying ADHMR without a cluster and for the tests:
# slurmctld, accounting (slurmdbd, MariaDB), munge, one slurmd a node. Needs root. How each part is done: slurm/local/.
#
#   install            install the Debian packages
#   start              start it, or what is missing of it
#   stop               end all jobs and daemons; the state stays in the directory
#   status             daemons, nodes, queue; exit code 3 when something is down
#   env                print what a shell needs: eval "$(bash slurm/local_cluster.sh env)"
#   wait-idle [S]      wait up to S seconds (30) until every node is idle
#   node-crash N       kill all processes of node N (n1, n2, ...), as when it loses power
#   node-freeze N      stop all processes of node N without ending them, as when it hangs
#   node-thaw N        let them go on
#   node-stop N [SIG]  send SIG (KILL) to the node's slurmd only; its jobs go on
#   node-start N       start the node's slurmd again
#   net-cut N          take the node's network link down (SLURM_LOCAL_NET=1)
#   net-join N         take it up again
#
# Settings, from the environment; a cluster that was started keeps its own:
#   SLURM_LOCAL_DIR    its directory: configuration, logs, state  (/tmp/slurm-local; keep the path short)
#   SLURM_LOCAL_PORT   it uses the 400 ports from here            (17000)
#   SLURM_LOCAL_NODES  nodes n1, n2, ...                          (3)
#   SLURM_LOCAL_CPUS   CPUs that each node claims; may exceed the machine's   (2)
#   SLURM_LOCAL_GPUS   GPUs that each node claims: names only, copies of /dev/null   (2)
#   SLURM_LOCAL_NET    1: each node has a network of its own behind a bridge, which can be cut   (0: loopback)
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PATH=$PATH:/usr/sbin:/sbin # where Debian has the daemons

directory=${SLURM_LOCAL_DIR:-/tmp/slurm-local}
port=${SLURM_LOCAL_PORT:-17000}
nodes=${SLURM_LOCAL_NODES:-3}
cpus=${SLURM_LOCAL_CPUS:-2}
gpus=${SLURM_LOCAL_GPUS:-2}
net=${SLURM_LOCAL_NET:-0}
# shellcheck source=/dev/null
[[ -s $directory/settings ]] && source "$directory/settings" # of the cluster that runs, or was not stopped, there

say() { echo "local_cluster: $*" >&2; }
die() { say "$*"; exit 1; }

source "$here/local/processes.sh"
source "$here/local/network.sh"
source "$here/local/configuration.sh"
source "$here/local/daemons.sh"
source "$here/local/faults.sh"

PACKAGES=(slurmctld slurmd slurm-client munge slurmdbd mariadb-server-core mariadb-client-core iproute2)

find_missing() {
    local program
    missing=()
    for program in slurmctld slurmd srun munged slurmdbd mariadbd ip; do
        command -v "$program" >/dev/null || missing+=("$program")
    done
    ((${#missing[@]} > 0))
}

need_packages() {
    ! find_missing || die "not installed: ${missing[*]}; install them with: bash slurm/local_cluster.sh install"
}

need_root() { [[ $(id -u) == 0 ]] || die "needs root: it gives each node a host name and devices of its own"; }

install_packages() {
    find_missing || return 0
    command -v apt-get >/dev/null || die "installs Debian packages only; with other systems install Slurm 22.05 or newer, munge and MariaDB yourself"
    [[ $(id -u) == 0 ]] || die "needs root; ask for: apt-get install --no-install-recommends ${PACKAGES[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # A machine without an init system refuses to start services; elsewhere the packages must not start theirs either.
    local policy=/usr/sbin/policy-rc.d mine=0
    [[ -e $policy ]] || { mine=1; printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod 755 "$policy"; }
    local code=0
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${PACKAGES[@]}" >/dev/null; } || code=$?
    ((mine == 0)) || rm -f "$policy"
    ((code == 0)) || die "apt-get ended with code $code"
}

node_named() { [[ ${1:-} =~ ^n[0-9]+$ ]] && ((${1#n} >= 1 && ${1#n} <= nodes)) || die "'${1:-}' is no node; expected n1 to n$nodes"; }

case ${1:-} in
    node-* | net-*) need_root; node_named "${2:-}" ;;
    start | stop) need_root ;;
esac
case ${1:-} in
    install) install_packages ;;
    start) need_packages; start_cluster ;;
    stop) stop_cluster ;;
    status) show_status ;;
    env) echo "export SLURM_CONF=$directory/slurm.conf" ;;
    wait-idle) wait_for "${2:-30}" all_idle || die "after ${2:-30} s not every node is idle: $(node_states | paste -sd,)" ;;
    node-crash) crash_node "$2" ;;
    node-freeze) signal_node "$2" STOP ;;
    node-thaw) signal_node "$2" CONT ;;
    node-stop) stop_slurmd "$2" "${3:-KILL}" ;;
    node-start) start_node "$2" ;;
    net-cut) link "$2" down ;;
    net-join) link "$2" up ;;
    *) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 2 ;;
esac
