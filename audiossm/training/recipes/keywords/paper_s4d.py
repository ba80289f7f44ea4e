"""The literature's classifier on the raw waveform: what S4D was trained with on Speech Commands, but causal.

Gu, Gupta, Goel and Ré 2022 (arXiv 2206.11893), with the settings of configs/experiment/sc in their repository
state-spaces/s4: 40 epochs of 16 clips, lr 0.01 and 0.001 for SSM parameters, weight decay 0.05, 1,000 steps of warm-up
in 200,000, then a cosine; no dropout, no augmentation, no averaging of weights. lr here is that of 64 clips a step.
"""

from audiossm.tasks import KeywordConfig
from audiossm.training.options import TrainOptions
from audiossm.training.recipes import Recipe

recipe = Recipe(
    KeywordConfig((), encoder="waveform", d_model=128, layers=6, d_state=64, dropout=0.0),
    TrainOptions(
        epochs=40,
        batch=16,
        lr=0.02,
        weight_decay=0.05,
        warmup=0.005,
        averaging=0.0,
        label_smoothing=0.0,
        mixup=0.0,
        shift=0.0,
        gain_db=(0.0, 0.0),
        noise_share=0.0,
        background_share=0.0,
        noise_only_share=0.0,
        speech_only_share=0.0,
        room_share=0.0,
        clip_share=0.0,
        rate_jitter=0.0,
        band_share=0.0,
        time_mask=0,
        channel_mask=0,
        stream_share=0.0,
    ),
)
