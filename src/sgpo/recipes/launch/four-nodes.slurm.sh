#!/usr/bin/env bash
# Four machines of eight GPUs under Slurm: sbatch four-nodes.slurm.sh RECIPE METHOD [--key value ...], beside four-nodes.sh.
#SBATCH --job-name=sgpo
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
set -euo pipefail

if [ $# -lt 2 ]; then
  echo "usage: sbatch $0 RECIPE sgpo|grpo|luffy|hpt [--key value ...]" >&2
  exit 2
fi
script=${SLURM_SUBMIT_DIR:-.}/four-nodes.sh
mapfile -t hosts < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
export HEAD=${hosts[0]} SERVERS=${hosts[3]}

NODE=3 srun --nodes 1 --ntasks 1 --nodelist "${hosts[3]}" bash "$script" "$@" & # ends with the job
for node in 1 2; do
  NODE=$node srun --nodes 1 --ntasks 1 --nodelist "${hosts[node]}" bash "$script" "$@" &
done
NODE=0 srun --nodes 1 --ntasks 1 --nodelist "${hosts[0]}" bash "$script" "$@"
