#!/usr/bin/env bash
# A command of shardtools on a Dask cluster of its own, in one SLURM job. docs/slurm.md says what to type:
#   sbatch slurm.sh htshuffle --seed 7 --resume s3://bucket/train-@1000.tar s3://bucket/shuffled-@1000.tar
#SBATCH --job-name=shardtools
#SBATCH --ntasks=8
#SBATCH --cpus-per-task=8
#SBATCH --mem-per-cpu=2G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --open-mode=append
set -euo pipefail

(($# > 0)) || { echo "usage: sbatch slurm.sh COMMAND ARGUMENTS, such as: sbatch slurm.sh htindex train-@8.tar" >&2; exit 2; }
command=$1
shift

# A folder that all nodes share, for the scheduler file and what Dask says; the folder of sbatch usually is.
folder=${SHARDTOOLS_SHARED:-$SLURM_SUBMIT_DIR}
scheduler_file=$folder/.shardtools-$SLURM_JOB_ID.json
log=$folder/dask-$SLURM_JOB_ID.log
scratch=${SHARDTOOLS_SCRATCH:-${TMPDIR:-/tmp}}
interface=${SHARDTOOLS_INTERFACE:+--interface $SHARDTOOLS_INTERFACE}

pids=()
stop() { # the command, then the workers, then the scheduler: each ends cleanly while the next one is there
    local i
    for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
        kill "${pids[i]}" 2>/dev/null || true
        wait "${pids[i]}" || true
    done
    rm -f "$scheduler_file"
}
trap stop EXIT
trap 'exit 143' TERM # the time is up, or others need the nodes
rm -f "$scheduler_file" # of before a requeue

# shellcheck disable=SC2086 # an option and its value, or nothing
dask scheduler --port 0 --dashboard-address :0 --scheduler-file "$scheduler_file" $interface >>"$log" 2>&1 &
pids+=($!)

# A twentieth of the memory is left for what Dask does not count.
memory=auto
[[ -z ${SLURM_MEM_PER_CPU:-} ]] || memory=$((SLURM_MEM_PER_CPU * SLURM_CPUS_PER_TASK * 95 / 100))MiB
# shellcheck disable=SC2086
TMPDIR=$scratch srun --kill-on-bad-exit=0 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    dask worker --scheduler-file "$scheduler_file" --nthreads "$SLURM_CPUS_PER_TASK" --memory-limit "$memory" \
    --local-directory "$scratch" --death-timeout 300 $interface >>"$log" 2>&1 &
pids+=($!)

# In the background, since bash acts on signals only while it waits.
"$command" -c "$scheduler_file" --wait 600 "$@" &
pids+=($!)
wait $!
