"""A generated directory of paraformer-zh: all files of the published model, small, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from tests.rewards.sensevoice import FRONTEND, cmvn

DIM, HEADS, LINEAR = 16, 2, 32
TOKENS = ["<blank>", "<s>", "</s>", *"今天气很好我们去公园", "<unk>"]


def make_paraformer(folder: Path, model: str = "SeacoParaformer") -> Path:
    """Make a directory with all files and with random weights from a fixed seed."""
    folder.mkdir(parents=True)
    (folder / "tokens.json").write_text(json.dumps(TOKENS), encoding="utf-8")
    (folder / "seg_dict").write_text("天 天\n", encoding="utf-8")
    (folder / "config.yaml").write_text(yaml.safe_dump(config(model)), encoding="utf-8")
    (folder / "configuration.json").write_text(
        json.dumps({"framework": "pytorch", "task": "auto-speech-recognition", "model": {"type": "funasr"}})
    )
    (folder / "am.mvn").write_text(cmvn(shift=-8.0, scale=0.15))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save({"state_dict": new_model(model).state_dict()}, folder / "model.pt")
    return folder


def new_model(model: str) -> torch.nn.Module:
    """Build the model with random weights."""
    import funasr  # noqa: F401  # registers all models
    from funasr.register import tables

    settings = {key: value for key, value in config(model).items() if key not in ("model", "model_conf")}
    conf = {**settings, **config(model)["model_conf"]}
    return tables.model_classes[model](**conf, vocab_size=len(TOKENS), input_size=560)


def config(model: str) -> dict[str, Any]:
    """Return config.yaml with the structure of the published one, and small sizes."""
    decoder = {
        "attention_heads": HEADS,
        "linear_units": LINEAR,
        "num_blocks": 2,
        "dropout_rate": 0.1,
        "positional_dropout_rate": 0.1,
        "self_attention_dropout_rate": 0.1,
        "src_attention_dropout_rate": 0.1,
        "att_layer_num": 2,
        "kernel_size": 11,
        "sanm_shfit": 0,
    }
    seaco = {"inner_dim": DIM, "bias_encoder_type": "lstm", "bias_encoder_bid": False, "NO_BIAS": 3}
    seaco |= {"seaco_decoder": "ParaformerSANMDecoder", "seaco_decoder_conf": decoder | {"use_output_layer": False}}
    shared = {"ctc_weight": 0.0, "lsm_weight": 0.1, "length_normalized_loss": True, "predictor_weight": 1.0}
    return {
        "model": model,
        "model_conf": {**shared, "predictor_bias": 1, "sampling_ratio": 0.75} | (seaco if "Seaco" in model else {}),
        "encoder": "SANMEncoder",
        "encoder_conf": {
            "output_size": DIM,
            "attention_heads": HEADS,
            "linear_units": LINEAR,
            "num_blocks": 2,
            "dropout_rate": 0.1,
            "positional_dropout_rate": 0.1,
            "attention_dropout_rate": 0.1,
            "input_layer": "pe",
            "pos_enc_class": "SinusoidalPositionEncoder",
            "normalize_before": True,
            "kernel_size": 11,
            "sanm_shfit": 0,
            "selfattention_layer_type": "sanm",
        },
        "decoder": "ParaformerSANMDecoder",
        "decoder_conf": decoder,
        "predictor": "CifPredictorV3" if "Seaco" in model else "CifPredictorV2",
        "predictor_conf": {"idim": DIM, "threshold": 1.0, "l_order": 1, "r_order": 1, "tail_threshold": 0.45}
        | ({"smooth_factor2": 0.25, "noise_threshold2": 0.01, "upsample_times": 3} if "Seaco" in model else {})
        | ({"use_cif1_cnn": False, "upsample_type": "cnn_blstm"} if "Seaco" in model else {}),
        "frontend": "WavFrontend",
        "frontend_conf": dict(FRONTEND),
        "tokenizer": "CharTokenizer",
        "tokenizer_conf": {"unk_symbol": "<unk>", "split_with_space": True},
    }
