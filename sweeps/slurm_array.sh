#!/usr/bin/env bash
# A sweep as a SLURM array, a trial to each task. Submit from the checkout, after `wandb login` or with WANDB_API_KEY:
#   sbatch --array=0-23%8 sweeps/slurm_array.sh ENTITY/PROJECT/SWEEP_ID      eight at a time, each with one GPU
#   sbatch --array=0-11%4 --gpus-per-node=8 --cpus-per-task=64 --exclusive sweeps/slurm_array.sh ENTITY/PROJECT/SWEEP_ID
#                                                                            each with a node: sweeps/grpo_node.yaml
#SBATCH --job-name=erv-sweep
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=B:TERM@180
#SBATCH --no-requeue
#SBATCH --output=sweep-%A_%a.log
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: sbatch $0 ENTITY/PROJECT/SWEEP_ID" >&2; exit 2; }
cd "${SLURM_SUBMIT_DIR:-.}"
export PATH="$PWD/.venv/bin:$PATH" OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-8}"
export WANDB_AGENT_KILL_DELAY=120  # seconds that a stopped trial has to finish its step and save

# Without these Lightning would take this task for one of its ranks and leave SIGTERM to SLURM's requeueing; tasks that
# share a node must not share a port.
unset "${!SLURM_@}" "${!MASTER_@}"

# SLURM sends SIGTERM 3 minutes before the time is up; the agent hands it on, and the trial saves.
exec wandb agent --forward-signals --count 1 "$1"
