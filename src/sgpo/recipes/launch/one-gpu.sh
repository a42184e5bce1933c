#!/usr/bin/env bash
# One GPU, with vLLM in the process that trains: bash one-gpu.sh RECIPE STAGE [--key value ...], such as qwen2.5-1.5b sgpo.
# What it takes before it runs: sgpo plan --recipe RECIPE/STAGE --change sampler=vllm
set -euo pipefail

if [ $# -lt 2 ]; then
  echo "usage: bash $0 RECIPE prepare|sft|sgpo|grpo|luffy|hpt|eval [--key value ...]" >&2
  exit 2
fi
recipe=$1
stage=$2
shift 2

case $stage in
  prepare) exec sgpo data prepare --config "$recipe/$stage" "$@" ;;
  sft | eval) exec sgpo "$stage" --config "$recipe/$stage" "$@" ;;
  *)
    exec sgpo train --config "$recipe/$stage" --sampler vllm --vllm_gpu_memory_utilization 0.3 \
      --vllm_max_model_length 20480 "$@"
    ;;
esac
