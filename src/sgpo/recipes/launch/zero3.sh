#!/usr/bin/env bash
# Several GPUs of one machine, 8 or $GPUS, with DeepSpeed's ZeRO-3: bash zero3.sh RECIPE STAGE [--key value ...], such as
# qwen2.5-7b sgpo. As fsdp2.sh, but a model is divided while it is loaded. It needs pip install 'sgpo[deepspeed]'.
set -euo pipefail

if [ $# -lt 2 ]; then
  echo "usage: [GPUS=N] bash $0 RECIPE sft|sgpo|grpo|luffy|hpt [--key value ...]" >&2
  exit 2
fi
recipe=$1
stage=$2
shift 2
gpus=${GPUS:-8}
divided=(--deepspeed '{"zero_optimization": {"stage": 3}, "bf16": {"enabled": "auto"}, "gradient_clipping": "auto",
  "train_micro_batch_size_per_gpu": "auto", "gradient_accumulation_steps": "auto"}')

case $stage in
  sft) # an update learns from 64 responses
    exec torchrun --nproc_per_node "$gpus" -m sgpo sft --config "$recipe/sft" \
      --gradient_accumulation_steps $((64 / gpus)) "${divided[@]}" "$@"
    ;;
  *)
    exec torchrun --nproc_per_node "$gpus" -m sgpo train --config "$recipe/$stage" \
      --sampler_batch_tokens 65536 "${divided[@]}" "$@"
    ;;
esac
