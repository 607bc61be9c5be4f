#!/usr/bin/env bash
# A throw-away SLURM on this machine, for tests/test_slurm.py. Run as root:
#   slurm_cluster.sh install       Debian's packages
#   slurm_cluster.sh up DIR        starts it; DIR is emptied. Prints the line that points clients at it.
#   slurm_cluster.sh down DIR      stops it, its jobs and all their processes
# SLURM_TEST_NODES (2) virtual nodes with SLURM_TEST_CPUS (2) each, ports from SLURM_TEST_PORT (16900).
# No systemd, no cgroups, no database. DIR must not lie under a folder that user munge cannot enter.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin

install_packages() {
  if ! command -v slurmctld slurmd srun munged >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
      slurm-wlm slurm-wlm-basic-plugins munge >/dev/null
  fi
}

write_config() {
  cat >"$DIR/slurm.conf" <<CONF
ClusterName=$CLUSTER
SlurmctldHost=$HOST(127.0.0.1)
SlurmctldPort=$PORT
SlurmUser=root
SlurmdUser=root
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket=$DIR/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool/%n
SlurmctldPidFile=$DIR/slurmctld.pid
SlurmdPidFile=$DIR/slurmd-%n.pid
SlurmctldLogFile=$DIR/log/slurmctld.log
SlurmdLogFile=$DIR/log/slurmd-%n.log
SlurmdParameters=config_overrides
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0
ReturnToService=2
KillWait=2
MinJobAge=300
SlurmctldTimeout=30
SlurmdTimeout=30
InactiveLimit=0
NodeName=node[1-$NODES] NodeHostname=$HOST NodeAddr=127.0.0.1 Port=[$((PORT + 1))-$((PORT + NODES))] CPUs=$CPUS RealMemory=2000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
}

alive() { # PID; a zombie is dead, but its parent may reap it late
  [ -r "/proc/$1/status" ] && ! grep -q '^State:.Z' "/proc/$1/status"
}

running() { # PID FILE, COMMAND: prints the process id while that daemon of DIR is alive
  local pid
  pid=$(cat "$1" 2>/dev/null) && [ -n "$pid" ] && alive "$pid" || return 1
  [ "$(cat "/proc/$pid/comm")" = "$2" ] || return 1 # the number went to another process
  tr '\0' '\n' <"/proc/$pid/cmdline" | grep -qF -- "$DIR/" && echo "$pid"
}

stop() { # PID FILE, COMMAND
  local pid
  if pid=$(running "$1" "$2"); then
    kill "$pid" 2>/dev/null || true
    for _ in $(seq 50); do alive "$pid" || break; sleep 0.1; done # its file goes before it does
    if alive "$pid"; then kill -9 "$pid" 2>/dev/null || true; fi
  fi
  rm -f "$1"
}

kill_job_processes() { # those that outlived a killed daemon; they carry the name of this cluster
  local environ pid
  for environ in /proc/[0-9]*/environ; do
    pid=${environ//[^0-9]/}
    if { tr '\0' '\n' <"$environ"; } 2>/dev/null | grep -qx "SLURM_CLUSTER_NAME=$CLUSTER"; then
      [ "$pid" = $$ ] || kill -9 "$pid" 2>/dev/null || true
    fi
  done
}

down() {
  if running "$DIR/slurmctld.pid" slurmctld >/dev/null; then
    timeout 10 scancel --user root 2>/dev/null || true
  fi
  for file in "$DIR"/slurmd-*.pid; do [ ! -e "$file" ] || stop "$file" slurmd; done
  stop "$DIR/slurmctld.pid" slurmctld
  stop "$DIR/munge/pid" munged
  kill_job_processes
}

start_munge() {
  install -d -o munge -g munge -m 0700 "$DIR/key"
  install -d -o munge -g munge -m 0755 "$DIR/munge"
  (umask 077 && head -c 1024 /dev/urandom >"$DIR/key/munge.key")
  chown munge:munge "$DIR/key/munge.key"
  setpriv --reuid munge --regid munge --clear-groups munged --key-file="$DIR/key/munge.key" \
    --socket="$DIR/munge/socket" --pid-file="$DIR/munge/pid" \
    --log-file="$DIR/munge/log" --seed-file="$DIR/munge/seed"
}

up() {
  grep -qwF -- "$HOST" /etc/hosts || echo "127.0.0.1 $HOST" >>/etc/hosts
  down
  rm -rf "$DIR"
  install -d -m 0755 "$DIR" "$DIR/state" "$DIR/spool" "$DIR/log"
  for i in $(seq "$NODES"); do install -d -m 0755 "$DIR/spool/node$i"; done
  write_config
  for port in $(seq "$PORT" $((PORT + NODES))); do # another cluster would answer in our place
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      echo "port $port is in use; set SLURM_TEST_PORT" >&2
      return 1
    fi
  done
  start_munge
  slurmctld -c -f "$SLURM_CONF"
  for i in $(seq "$NODES"); do slurmd -f "$SLURM_CONF" -N "node$i"; done
  for _ in $(seq 200); do
    if [ "$(sinfo -h -p debug -t idle -o %D 2>/dev/null)" = "$NODES" ]; then
      echo "export SLURM_CONF=$SLURM_CONF"
      return 0
    fi
    sleep 0.1
  done
  echo "SLURM did not come up; its logs:" >&2
  tail -n 20 "$DIR"/log/*.log "$DIR/munge/log" >&2
  return 1
}

COMMAND=${1:-help}
DIR=${2:-}
NODES=${SLURM_TEST_NODES:-2} CPUS=${SLURM_TEST_CPUS:-2} PORT=${SLURM_TEST_PORT:-16900}
HOST=$(hostname -s) CLUSTER=lambdahat$PORT
export SLURM_CONF=$DIR/slurm.conf

case "$COMMAND:${DIR:+folder}" in
  install:*) install_packages ;;
  up:folder) up ;;
  down:folder) down ;;
  *) sed -n '2,7s/^# \?//p' "$0"; exit 2 ;;
esac
