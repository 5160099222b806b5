# Finding and ending the processes of the local cluster. Sourced by local_cluster.sh; nothing here knows Slurm's settings.

# wait_for SECONDS COMMAND...: until it succeeds, asked every 50 ms
wait_for() {
    local end=$((SECONDS + $1))
    shift
    while ! "$@" >/dev/null 2>&1; do
        ((SECONDS < end)) || return 1
        sleep 0.05
    done
}

# dead PID: gone, or a zombie, which an init that reaps late leaves for a while
dead() {
    local state
    state=$(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null) || return 0
    [[ -z $state || ${state:0:1} == Z ]]
}

pid_of() { tr -d '[:space:]' <"$directory/run/$1.pid"; }

# alive NAME: its pid file names a living process of that program, not one that got the same number later
alive() {
    local pid program
    [[ -s $directory/run/$1.pid ]] && pid=$(pid_of "$1") && [[ $pid =~ ^[0-9]+$ ]] && ! dead "$pid" || return 1
    program=$(cat "/proc/$pid/comm" 2>/dev/null) && [[ $program == "${1%%.*}"* ]]
}

# end_daemon NAME SECONDS: TERM, and KILL after that time
end_daemon() {
    if alive "$1"; then
        local pid
        pid=$(pid_of "$1")
        kill -TERM "$pid" 2>/dev/null || true
        wait_for "$2" dead "$pid" || { say "$1 (pid $pid) did not end within $2 s: killed"; kill -KILL "$pid" 2>/dev/null || true; }
    fi
    rm -f "$directory/run/$1.pid"
}

# node_pids NODE: all that run under its host name: slurmd, its steps, the jobs' processes (zombies have no namespace)
node_pids() {
    [[ -s $directory/run/$1.made ]] || return 0
    stat -L -c '%i %n' /proc/[0-9]*/ns/uts 2>/dev/null |
        awk -v node="$(stat -L -c %i "$directory/run/$1.uts")" '$1 == node {split($2, path, "/"); print path[3]}'
}

# leftovers: daemons and steps of this directory whose pid file is lost, told by their environment
leftovers() {
    local process
    for process in /proc/[0-9]*; do
        case $(cat "$process/comm" 2>/dev/null) in
            munged | mariadbd | slurmdbd* | slurmctld* | slurmd* | slurmstepd* | slurmscriptd*) ;;
            *) continue ;;
        esac
        dead "${process#/proc/}" && continue
        tr '\0' '\n' <"$process/environ" 2>/dev/null | grep -qxF -e "SLURM_CONF=$directory/slurm.conf" -e "SLURM_CONF=$directory/slurmdbd.conf" &&
            echo "${process#/proc/}"
    done
    true
}
