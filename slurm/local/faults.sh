# What breaks in clusters, on purpose: a node that loses power, hangs, or loses its slurmd. Sourced by local_cluster.sh.

signal_node() { # NODE SIGNAL
    local pid
    for pid in $(node_pids "$1"); do kill "-$2" "$pid" 2>/dev/null || true; done
}

crash_node() {
    local round
    for round in 1 2 3; do signal_node "$1" KILL; done # again, for processes that were being made
    rm -f "$directory/run/slurmd.$1.pid"
}

stop_slurmd() { # NODE SIGNAL
    alive "slurmd.$1" || die "the slurmd of $1 does not run"
    kill "-$2" "$(pid_of "slurmd.$1")"
}
