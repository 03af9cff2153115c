#!/bin/bash
# One GRPO run on several nodes under SLURM, started again when its time is up:
#
#   sbatch configs/trainer/slurm.sh -c configs/grpo.yaml -c configs/model/qwen2_5_omni_7b.yaml --name big
#
# 90 seconds before the limit SLURM sends SIGUSR1. The run finishes its step, writes last.ckpt, and puts the job into the
# queue again; the same command then goes on from there. Adapt the lines below to your cluster. Not tried on a cluster: the
# signal, the checkpoint and the going on are tested with a stand-in for scontrol, one process, no GPU.
#SBATCH --job-name=erv
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=SIGUSR1@90
#SBATCH --open-mode=append
#SBATCH --output=runs/slurm-%j.log
set -euo pipefail

# On every node: the environment, weights in a cache that all nodes share, clips on the node's own disk.
source .venv/bin/activate
export HF_HOME="${HF_HOME:-$HOME/.cache/huggingface}"
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}"       # compute nodes rarely reach the network: download beforehand
export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
export WANDB_MODE="${WANDB_MODE:-offline}"

# --kill-on-bad-exit: the error of one process ends all of them
srun --kill-on-bad-exit=1 python -m erv_lightning fit "$@" \
    -c configs/trainer/fsdp.yaml -c configs/trainer/slurm.yaml \
    --trainer.devices "${SLURM_NTASKS_PER_NODE:-8}"
