# The configuration files of the local cluster: slurm.conf, gres.conf, slurmdbd.conf, my.cnf. Sourced by local_cluster.sh.
# Slurm's waiting times are shortened (KillWait, timeouts, requeue delay); everything else is a cluster's ordinary setting.

host=$(hostname -s)
controller_port=$((port + 1)) accounting_port=$((port + 2)) database_port=$((port + 3)) # slurmd of n1: +11; srun: +100 to +399

write_configuration() {
    mkdir -p "$directory"/{run,log,state,spool,munge,db,dev}
    chmod 755 "$directory" "$directory"/{run,log,state,spool,dev}
    chmod 700 "$directory"/{munge,db}
    [[ -s $directory/munge/munge.key ]] || (umask 077; head -c 128 /dev/urandom >"$directory/munge/munge.key")
    printf 'port=%s nodes=%s cpus=%s gpus=%s net=%s\n' "$port" "$nodes" "$cpus" "$gpus" "$net" >"$directory/settings"
    : >"$directory/plugstack.conf" # an empty one: without it Slurm logs an error
    write_slurm_conf
    write_gres_conf
    write_slurmdbd_conf
    write_database_conf
}

# Behind a bridge the daemons are reached by other addresses; they know only one's own and all.
on_loopback() { [[ $net == 1 ]] || echo "CommunicationParameters=$1"; }

write_slurm_conf() {
    local i
    cat >"$directory/slurm.conf" <<CONF
ClusterName=local
SlurmctldHost=$host($controller_address)
SlurmctldPort=$controller_port
$(on_loopback NoInAddrAny,NoCtldInAddrAny)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also how long a requeued job waits before it may start again (Slurm: 120; less than 5 does not help)
AuthInfo=socket=$directory/munge/munge.socket,cred_expire=5
StateSaveLocation=$directory/state
SlurmctldPidFile=$directory/run/slurmctld.pid
SlurmctldLogFile=$directory/log/slurmctld.log
SlurmdPidFile=$directory/run/slurmd.%n.pid
SlurmdLogFile=$directory/log/slurmd.%n.log
SlurmdSpoolDir=$directory/spool/%n
PlugStackConfig=$directory/plugstack.conf
MailProg=/bin/true
RebootProgram=/bin/true
MpiDefault=none
# several nodes on one machine, no cgroups
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
TreeWidth=128
SrunPortRange=$((port + 100))-$((port + 399))
# a node that comes back is idle again by itself
ReturnToService=2
# scheduling within a second or two
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
PriorityType=priority/basic
CompleteWait=0
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# without it a preempted job gets SIGTERM only, never the signal of --signal
SlurmctldParameters=preempt_send_user_signal
# shortened; Slurm: KillWait 30, SlurmdTimeout 300, MessageTimeout 10
KillWait=5
SlurmdTimeout=5
MessageTimeout=5
SlurmctldTimeout=30
BatchStartTimeout=30
UnkillableStepTimeout=60
MinJobAge=300
# ids of another life of this directory must not come again: old result files would be taken for new ones
FirstJobId=$(($(date +%s) / 10 % 6000000 * 10 + 1))
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=$controller_address
AccountingStoragePort=$accounting_port
# with munge this is the socket that clients of slurmdbd use; AuthInfo does not cover them
AccountingStoragePass=$directory/munge/munge.socket
AccountingStoreFlags=job_comment
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=5
$( ((gpus > 0)) && printf 'GresTypes=gpu\nAccountingStorageTRES=gres/gpu\n')
$(for ((i = 1; i <= nodes; i++)); do
        echo "NodeName=n$i NodeHostname=$host NodeAddr=$(address_of n$i) Port=$((port + 10 + i)) CPUs=$cpus Boards=1 SocketsPerBoard=1" \
            "CoresPerSocket=$cpus ThreadsPerCore=1 RealMemory=8000 $( ((gpus > 0)) && echo "Gres=gpu:$gpus") State=UNKNOWN"
    done)
# debug, the default, and high are never preempted; the low ones are, by either: at once, after a grace, or for good
PartitionName=DEFAULT Nodes=n[1-$nodes] MaxTime=INFINITE DefaultTime=60 State=UP OverSubscribe=NO
PartitionName=debug Default=YES PriorityTier=10 PreemptMode=OFF
PartitionName=low PriorityTier=1 PreemptMode=REQUEUE GraceTime=0
PartitionName=lowg PriorityTier=1 PreemptMode=REQUEUE GraceTime=20
PartitionName=lowc PriorityTier=1 PreemptMode=CANCEL GraceTime=5
PartitionName=high PriorityTier=100 PreemptMode=OFF
PartitionName=short PriorityTier=10 PreemptMode=OFF MaxTime=5
CONF
}

# Copies of /dev/null stand in for GPUs: with device files Slurm gives them out and sets CUDA_VISIBLE_DEVICES.
write_gres_conf() {
    local i
    : >"$directory/gres.conf"
    for ((i = 0; i < gpus; i++)); do
        [[ -c $directory/dev/gpu$i ]] || mknod -m 666 "$directory/dev/gpu$i" c 1 3
        echo "NodeName=n[1-$nodes] Name=gpu File=$directory/dev/gpu$i" >>"$directory/gres.conf"
    done
}

write_slurmdbd_conf() {
    rm -f "$directory/slurmdbd.conf"
    (umask 077; cat >"$directory/slurmdbd.conf") <<CONF
AuthType=auth/munge
AuthInfo=socket=$directory/munge/munge.socket
DbdHost=$host
DbdAddr=$controller_address
DbdPort=$accounting_port
$(on_loopback NoInAddrAny)
SlurmUser=root
LogFile=$directory/log/slurmdbd.log
PidFile=$directory/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$database_port
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
CommitDelay=1
CONF
}

write_database_conf() {
    cat >"$directory/my.cnf" <<CONF
[mariadbd]
datadir=$directory/db/data
socket=$directory/run/mariadb.sock
pid-file=$directory/run/mariadbd.pid
log-error=$directory/log/mariadb.log
bind-address=127.0.0.1
port=$database_port
user=root
skip-name-resolve
skip-log-bin
performance_schema=OFF
innodb_buffer_pool_size=64M
innodb_log_file_size=32M
innodb_lock_wait_timeout=900
innodb_flush_log_at_trx_commit=0
innodb_flush_method=nosync
CONF
}
