#!/bin/bash
# Training on several machines through Slurm and torchrun. `sbatch slurm.sh`, after setting the four names below.
# A lost node ends the job; --requeue starts it again, and it goes on from the last whole checkpoint in OUT.
# OUT must lie on a file system that all nodes share. For DDP remove the exports and cuda_graphs=false.
#SBATCH --job-name=ouroboros3d
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=48:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
: "${DATA:?a folder of multi-view objects or shards}" "${START:?what ouroboros convert svd wrote}"
: "${OUT:?a folder for checkpoints and results}" "${ACCUMULATION:?32 / (nodes * 8), for batches of 32}"

# what accelerate's fsdp.yaml says, for torchrun
export ACCELERATE_USE_FSDP=true FSDP_VERSION=2 FSDP_AUTO_WRAP_POLICY=TRANSFORMER_BASED_WRAP
export FSDP_RESHARD_AFTER_FORWARD=true FSDP_STATE_DICT_TYPE=SHARDED_STATE_DICT FSDP_OFFLOAD_PARAMS=false
export FSDP_ACTIVATION_CHECKPOINTING=false FSDP_CPU_RAM_EFFICIENT_LOADING=false

HEAD=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
RESUME=$(compgen -G "$OUT/checkpoint-[0-9]*" > /dev/null && echo --resume || true)
# threads for the averages on the CPU; torchrun would set 1
OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / 8)) srun --kill-on-bad-exit=1 torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 8 \
  --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$HEAD:29500" \
  -m ouroboros_lib train --preset paper --data "$DATA" --init "$START" --out "$OUT" $RESUME \
  $(python -m ouroboros_lib.training.recipe paper joint) --set accumulation="$ACCUMULATION" --set cuda_graphs=false
