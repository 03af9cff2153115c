#!/usr/bin/env bash
# One W&B agent for each GPU of this machine:  sweeps/agent_per_gpu.sh ENTITY/PROJECT/SWEEP_ID [TRIALS_PER_AGENT]
# CUDA_VISIBLE_DEVICES=0,3 chooses GPUs; without a GPU one agent runs. Ctrl-C or SIGTERM ends the trials, which save.
set -euo pipefail
[ $# -ge 1 ] || { echo "usage: $0 ENTITY/PROJECT/SWEEP_ID [TRIALS_PER_AGENT]" >&2; exit 2; }
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# A trial that hyperband stops ends with status 143, a failure to the agent, which must not give up over these.
export WANDB_AGENT_MAX_INITIAL_FAILURES=1000 WANDB_AGENT_DISABLE_FLAPPING=true
export WANDB_AGENT_KILL_DELAY=120  # seconds that a stopped trial has to finish its step and save
unset "${!SLURM_@}" "${!MASTER_@}"  # in a job Lightning would take a trial for a rank; each trial finds a free port

gpus=${CUDA_VISIBLE_DEVICES-$(nvidia-smi --query-gpu=index --format=csv,noheader 2>/dev/null | paste -sd, || true)}
agents=()
trap 'kill -TERM "${agents[@]}" 2>/dev/null || true' INT TERM
for gpu in ${gpus//,/ }; do
    CUDA_VISIBLE_DEVICES=$gpu wandb agent --forward-signals ${2:+--count "$2"} "$1" &
    agents+=($!)
done
if [ ${#agents[@]} -eq 0 ]; then
    wandb agent --forward-signals ${2:+--count "$2"} "$1" &
    agents+=($!)
fi
until wait; do :; done  # a signal ends only the waiting
