# Starting, stopping and showing the local cluster's daemons, in the order that they need. Sourced by local_cluster.sh.

export SLURM_CONF=$directory/slurm.conf

start_cluster() {
    local begin=$EPOCHREALTIME i
    if ! alive slurmctld; then
        write_configuration
        make_network
        write_host_names
    fi
    start_munge
    start_database
    start_accounting
    start_controller
    for ((i = 1; i <= nodes; i++)); do start_node "n$i"; done
    wait_for 30 all_idle || say "not every node is idle; see: bash slurm/local_cluster.sh status"
    say "$nodes nodes up after $(awk -v a="$begin" -v b="$EPOCHREALTIME" 'BEGIN {printf "%.1f", b - a}') s; next: eval \"\$(bash slurm/local_cluster.sh env)\""
}

stop_cluster() {
    local i left
    for ((i = 1; i <= nodes; i++)); do signal_node "n$i" CONT; done
    if alive slurmctld; then
        scancel --full -u "$(id -un)" 2>/dev/null || true
        no_jobs() { [[ -z $(squeue -h) ]]; }
        wait_for 10 no_jobs || true
    fi
    for ((i = 1; i <= nodes; i++)); do end_daemon "slurmd.n$i" 5; done
    for ((i = 1; i <= nodes; i++)); do remove_node "n$i"; done
    end_daemon slurmctld 15
    end_daemon slurmdbd 15
    end_daemon mariadbd 20
    end_daemon munged 5
    left=$(leftovers)
    # shellcheck disable=SC2086
    [[ -z $left ]] || { say "killed what was left: "$left; kill -KILL $left 2>/dev/null || true; }
    remove_network
    rm -f "$directory/settings"
    say "stopped"
}

show_status() {
    local daemon code=0 i
    for daemon in munged mariadbd slurmdbd slurmctld $(for ((i = 1; i <= nodes; i++)); do echo "slurmd.n$i"; done); do
        if alive "$daemon"; then
            printf '%-10s up, pid %s\n' "$daemon" "$(pid_of "$daemon")"
        else
            printf '%-10s down\n' "$daemon"
            code=3
        fi
    done
    if alive slurmctld; then sinfo; squeue; fi
    return $code
}

# From slurmctld itself: in Slurm 22.05 sinfo can go on calling a node mixed that is idle or down.
node_states() { scontrol --oneliner show node | sed -E 's/.*NodeName=(\S+).* State=(\S+).*/\1 \2/'; }

all_idle() { (($(node_states | grep -c ' IDLE$') == nodes)); }

start_munge() {
    alive munged && return 0
    rm -f "$directory"/munge/munge.socket*
    # --force: below a folder that everyone may write to
    munged --force --key-file="$directory/munge/munge.key" --socket="$directory/munge/munge.socket" \
        --pid-file="$directory/run/munged.pid" --log-file="$directory/log/munged.log" \
        --seed-file="$directory/munge/munged.seed" --num-threads=4 >>"$directory/log/munged.out" 2>&1 ||
        die "munged does not start: $(tail -n 3 "$directory/log/munged.out")"
    chmod 711 "$directory/munge"
    wait_for 10 munge -S "$directory/munge/munge.socket" -n || die "munged does not answer; see $directory/log/munged.log"
}

start_database() {
    alive mariadbd && return 0
    if [[ ! -d $directory/db/data/mysql ]]; then
        mkdir -p "$directory/db/data"
        mariadb-install-db --defaults-file="$directory/my.cnf" --datadir="$directory/db/data" --user=root \
            --auth-root-authentication-method=socket --skip-test-db --skip-name-resolve \
            >"$directory/log/mariadb-install.log" 2>&1 || die "no database; see $directory/log/mariadb-install.log"
    fi
    setsid mariadbd --defaults-file="$directory/my.cnf" >"$directory/log/mariadbd.out" 2>&1 </dev/null &
    local client=(mariadb --no-defaults --socket="$directory/run/mariadb.sock" -uroot)
    wait_for 30 "${client[@]}" -e 'select 1' || die "mariadbd does not answer; see $directory/log/mariadb.log"
    "${client[@]}" -e "CREATE DATABASE IF NOT EXISTS slurm_acct_db;
        CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';
        GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';"
}

start_accounting() {
    alive slurmdbd && return 0
    SLURM_CONF=$directory/slurmdbd.conf slurmdbd >>"$directory/log/slurmdbd.out" 2>&1 || die "slurmdbd does not start; see $directory/log/slurmdbd.log"
    wait_for 60 sacctmgr -nP list cluster || die "slurmdbd does not answer; see $directory/log/slurmdbd.log"
    [[ -n $(sacctmgr -nP list cluster local format=cluster) ]] || sacctmgr -i add cluster local >/dev/null
}

start_controller() {
    alive slurmctld && return 0
    slurmctld >>"$directory/log/slurmctld.out" 2>&1 || die "slurmctld does not start; see $directory/log/slurmctld.log"
    answers() { scontrol ping | grep -q 'is UP'; }
    wait_for 30 answers || die "slurmctld does not answer; see $directory/log/slurmctld.log"
}

# A node's processes share a host name (a UTS namespace, kept by a mount while no process is in it) and are found by it.
make_node() {
    [[ -s $directory/run/$1.made ]] && return 0
    : >"$directory/run/$1.uts"
    unshare --uts="$directory/run/$1.uts" hostname "$1" || die "no host name for $1: unshare --uts is not allowed here"
    echo made >"$directory/run/$1.made"
}

remove_node() {
    crash_node "$1" # what a job left behind
    umount "$directory/run/$1.uts" 2>/dev/null || true
    rm -f "$directory/run/$1".{made,uts}
}

start_node() {
    alive "slurmd.$1" && return 0
    mkdir -p "$directory/spool/$1"
    make_node "$1"
    # shellcheck disable=SC2016
    in_network "$1" nsenter --uts="$directory/run/$1.uts" unshare --mount --propagation slave \
        sh -c 'mount --bind "$2" /etc/hosts && exec slurmd -N "$1"' _ "$1" "$directory/hosts" \
        >>"$directory/log/slurmd.$1.out" 2>&1 </dev/null ||
        die "slurmd of $1 does not start; see $directory/log/slurmd.$1.out"
    wait_for 10 alive "slurmd.$1" || die "slurmd of $1 wrote no pid file; see $directory/log/slurmd.$1.log"
}
