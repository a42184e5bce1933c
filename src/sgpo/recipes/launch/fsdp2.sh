#!/usr/bin/env bash
# Several GPUs of one machine, 8 or $GPUS, with FSDP2: bash fsdp2.sh RECIPE STAGE [--key value ...], such as qwen2.5-7b sgpo.
# Weights, gradients and moments are divided among them. The transformers sampler samples, which is slow: first look at
# sgpo plan --recipe RECIPE/STAGE --gpus 8 --change sampler_batch_tokens=65536
set -euo pipefail

if [ $# -lt 2 ]; then
  echo "usage: [GPUS=N] bash $0 RECIPE sft|sgpo|grpo|luffy|hpt [--key value ...]" >&2
  exit 2
fi
recipe=$1
stage=$2
shift 2
gpus=${GPUS:-8}
sharded=(--fsdp full_shard --fsdp_config '{"fsdp_version": 2}')

case $stage in
  sft) # an update learns from 64 responses
    exec torchrun --nproc_per_node "$gpus" -m sgpo sft --config "$recipe/sft" \
      --gradient_accumulation_steps $((64 / gpus)) "${sharded[@]}" "$@"
    ;;
  *)
    exec torchrun --nproc_per_node "$gpus" -m sgpo train --config "$recipe/$stage" \
      --sampler_batch_tokens 65536 "${sharded[@]}" "$@"
    ;;
esac
