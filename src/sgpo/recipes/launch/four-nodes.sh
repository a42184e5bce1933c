#!/usr/bin/env bash
# Four machines of eight GPUs, one file system: three train with FSDP2, on the fourth are eight vLLM servers. On each, with
# NODE from 0 to 3: NODE=0 HEAD=HOST0 SERVERS=HOST3 bash four-nodes.sh RECIPE METHOD [--key value ...]
# The servers run until they are stopped.
set -euo pipefail

if [ $# -lt 2 ]; then
  echo "usage: NODE=0..3 HEAD=HOST SERVERS=HOST bash $0 RECIPE sgpo|grpo|luffy|hpt [--key value ...]" >&2
  exit 2
fi
recipe=$1
method=$2
shift 2
ports=(8000 8001 8002 8003 8004 8005 8006 8007)

if [ "$NODE" -eq 3 ]; then
  for gpu in "${!ports[@]}"; do
    CUDA_VISIBLE_DEVICES=$gpu VLLM_SERVER_DEV_MODE=1 vllm serve "runs/$recipe/sft" --dtype bfloat16 \
      --host 0.0.0.0 --port "${ports[gpu]}" --max-model-len 20480 --logprobs-mode raw_logprobs \
      --weight-transfer-config '{"backend": "nccl"}' &
  done
  wait
  exit
fi
urls=$(printf "http://$SERVERS:%s," "${ports[@]}")
exec torchrun --nnodes 3 --node_rank "$NODE" --nproc_per_node 8 --master_addr "$HEAD" --master_port 29500 \
  -m sgpo train --config "$recipe/$method" --fsdp full_shard --fsdp_config '{"fsdp_version": 2}' \
  --sampler vllm --vllm_mode server --vllm_server_base_url "${urls%,}" --vllm_server_timeout 1800 "$@"
