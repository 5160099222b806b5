# Addresses and names of the nodes: loopback, or with SLURM_LOCAL_NET=1 a network namespace for each behind a bridge.
# Sourced by local_cluster.sh.

bridge=sl$((port / 100))
subnet=10.77.$((port / 100 % 250))
if [[ $net == 1 ]]; then controller_address=$subnet.1; else controller_address=127.0.0.1; fi

address_of() { if [[ $net == 1 ]]; then echo "$subnet.$((10 + ${1#n}))"; else echo 127.0.0.1; fi; }

# Not `ip netns exec`: it mounts /sys anew, without the cgroup folder that slurmd wants to see.
in_network() {
    local node=$1
    shift
    if [[ $net == 1 ]]; then nsenter --net="/run/netns/$bridge-$node" "$@"; else "$@"; fi
}

make_network() {
    [[ $net == 1 ]] || return 0
    local i node
    ip link show "$bridge" >/dev/null 2>&1 || {
        ip link add "$bridge" type bridge
        ip address add "$controller_address/24" dev "$bridge"
        ip link set "$bridge" up
    }
    for ((i = 1; i <= nodes; i++)); do
        node=n$i
        [[ -e /run/netns/$bridge-$node ]] && continue
        ip netns add "$bridge-$node"
        ip link add "$bridge$node" type veth peer name eth0 netns "$bridge-$node"
        ip link set "$bridge$node" master "$bridge" up
        ip -n "$bridge-$node" address add "$(address_of $node)/24" dev eth0
        ip -n "$bridge-$node" link set lo up
        ip -n "$bridge-$node" link set eth0 up
    done
}

remove_network() {
    [[ $net == 1 ]] || return 0
    local i
    for ((i = 1; i <= nodes; i++)); do
        ip netns delete "$bridge-n$i" 2>/dev/null || true
        ip link delete "${bridge}n$i" 2>/dev/null || true
    done
    ip link delete "$bridge" 2>/dev/null || true
}

link() { # NODE up|down
    [[ $net == 1 ]] || die "net-cut and net-join need a cluster that was started with SLURM_LOCAL_NET=1"
    ip link set "$bridge$1" "$2"
}

# Jobs find each other by node names. The nodes see this file as /etc/hosts; the machine's own stays as it is.
write_host_names() {
    local i
    {
        for ((i = 1; i <= nodes; i++)); do echo "$(address_of n$i) n$i"; done
        grep -vE '[[:space:]]n[0-9]+([[:space:]]|$)' /etc/hosts || true
    } >"$directory/hosts"
}
