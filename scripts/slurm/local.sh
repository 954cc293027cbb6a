#!/bin/sh
# A real Slurm of one node, for tests: sh scripts/slurm/local.sh start|stop FOLDER. Needs root, and Debian's packages
# slurm-wlm and munge (apt install slurm-wlm munge). Two partitions: jobs of `high` preempt those of `low`, which get a
# warning and are queued again. The daemons keep all they write in FOLDER; `export SLURM_CONF=FOLDER/slurm.conf` makes
# sbatch and the others find them.
set -eu

usage() {
    echo "usage: local.sh start|stop FOLDER" >&2
    exit 2
}
[ $# -eq 2 ] || usage
mkdir -p "$2"
folder=$(cd "$2" && pwd)
conf=$folder/slurm.conf
SLURM_CONF=$conf
export SLURM_CONF

stop() {
    for name in slurmd slurmctld munged; do
        file=$folder/$name.pid
        [ ! -s "$file" ] || kill "$(cat "$file")" 2>/dev/null || true
    done
}

start() {
    for command in munged slurmctld slurmd; do
        command -v "$command" >/dev/null || {
            echo "local.sh: $command is not there: apt install slurm-wlm munge" >&2
            exit 1
        }
    done
    [ "$(id -u)" = 0 ] || {
        echo "local.sh: slurmd starts jobs as their users, for which it has to be root" >&2
        exit 1
    }
    host=$(hostname -s)
    mkdir -p "$folder/state" "$folder/spool"
    # munged insists on folders that are its own
    keys=/run/munge
    install -d -o munge -g munge -m 755 "$keys"
    head -c 1024 /dev/urandom >"$folder/munge.key"
    install -o munge -g munge -m 400 "$folder/munge.key" "$keys/pcpad.key"
    su -s /bin/sh munge -c "munged --force --key-file $keys/pcpad.key --socket $keys/pcpad.socket \
        --pid-file $keys/pcpad.pid --log-file $keys/pcpad.log --seed-file $keys/pcpad.seed"
    cp "$keys/pcpad.pid" "$folder/munged.pid"
    cat >"$conf" <<END
ClusterName=pcpad
SlurmctldHost=$host
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$keys/pcpad.socket,cred_expire=10
CredType=cred/munge
SlurmctldPort=16817
SlurmdPort=16818
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=5,bf_interval=5
MinJobAge=600
KillWait=30
JobRequeue=1
NodeName=$host CPUs=$(getconf _NPROCESSORS_ONLN) State=UNKNOWN
PartitionName=low Nodes=$host Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=120 MaxTime=60 State=UP
PartitionName=high Nodes=$host PriorityTier=10 PreemptMode=OFF MaxTime=60 State=UP
END
    slurmctld
    slurmd -N "$host"
    for _ in $(seq 60); do
        [ "$(sinfo -h -p low -o %t 2>/dev/null)" = idle ] && break
        sleep 1
    done
    sinfo
}

case $1 in
    start) start ;;
    stop) stop ;;
    *) usage ;;
esac
