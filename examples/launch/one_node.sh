#!/usr/bin/env bash
# One node: bash examples/launch/one_node.sh STAGE [key=value ...], from the repository root; STAGE is 1 or 2.
# The same command goes on with a run that was stopped. Of several nodes each runs it, see several_nodes.sbatch.
set -euo pipefail

stage="${1:?type 1 (warm-up) or 2 (GRPO), then keys as for train or train_rl}"
shift

both=(                                             # change these
  datasets.name=mine datasets.num_workers=4        # data/mine_custom; workers are for each process
  model.tokenizer=custom model.tokenizer_path="$PWD/data/Emilia_ZH_EN_pinyin/vocab.txt"
  model.output_dist=gaussian model.use_rl_head=true model.arch.checkpoint_activations=true
  optim.mixed_precision=bf16 optim.tf32=true
)
warmup=(
  -cn F5TTS_v1_Base model.objective=gaussian_nll
  optim.epochs=1 optim.learning_rate=1e-5 optim.num_warmup_updates=100
  ckpts.init_from=hf://SWivid/F5-TTS/F5TTS_v1_Base/model_1250000.safetensors
  ckpts.save_dir=ckpts/mine_warmup ckpts.last_per_updates=200
)
grpo=(
  -cn F5TTS_RL datasets.batch_size_per_gpu=2 rl.mini_repeat_count=8
  optim.epochs=1 optim.learning_rate=1e-6 optim.num_warmup_updates=50
  ckpts.init_from=ckpts/mine_warmup/model_last.pt
  ckpts.save_dir=ckpts/mine_grpo ckpts.last_per_updates=20
  rl.rewards.providers.0.config.model_dir=checkpoints/wespeaker/cnceleb_resnet34/cnceleb_resnet34
  rl.rewards.providers.1.config.model_id="$PWD/checkpoints/funasr/SenseVoiceSmall"
  rl.rewards.providers.0.config.device=cuda rl.rewards.providers.1.config.device=cuda
)

case "$stage" in
  1) command=(f5_tts.train.train "${warmup[@]}") ;;
  2) command=(f5_tts.train.train_rl "${grpo[@]}") ;;
  *) echo "error: stage $stage is not known; type 1 or 2" >&2; exit 2 ;;
esac

# A stop may take as long as an update and a save (torchrun itself waits 30 s, then kills).
read -ra meeting <<< "${MEETING:---standalone}"    # how processes find each other
exec "${PYTHON:-.venv/bin/python}" -m torch.distributed.run "${meeting[@]}" \
  --nproc-per-node="${NPROC:-8}" --shutdown-timeout=300 -m "${command[@]}" "${both[@]}" "$@"
