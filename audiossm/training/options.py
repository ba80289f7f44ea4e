"""How a model is trained: one typed record a task, stored with the run."""

import math
from dataclasses import dataclass

CLIP_SECONDS = 1.0  # what training and evaluation take of a recording
LR_BATCH = 64  # clips a step for which learning rates are given


@dataclass(frozen=True)
class Optimisation:
    """What all tasks share.

    Attributes:
        epochs: passes over the training data.
        batch: clips or windows a step, over all devices together.
        lr, weight_decay: AdamW's, for all but the SSM parameters, which carry their own (0.001 and none).
        warmup: share of the steps over which the learning rate rises; then it falls as a cosine.
        averaging: share of the steps that the average of the weights remembers; the average is the result.
        seed: of weights, order and augmentation.
        minutes: of wall time that a training takes instead of `epochs`, see `audiossm.training.clock`; shares of the
            steps are then shares of the time. A training by the clock cannot be repeated to the bit.
    """

    epochs: int = 100
    batch: int = 64
    lr: float = 0.004
    weight_decay: float = 0.05
    warmup: float = 0.05
    averaging: float = 0.02
    seed: int = 0
    minutes: float | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for values without sense."""
        if self.epochs < 1 or self.batch < 1:
            raise ValueError(f"epochs and batch must be at least 1, not {self.epochs} and {self.batch}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr must be a positive number, not {self.lr}")
        if self.minutes is not None and not 0 < self.minutes < math.inf:
            raise ValueError(f"minutes must be a positive number, not {self.minutes}")

    @property
    def lr_factor(self) -> float:
        """By what all learning rates are multiplied."""
        return 1.0


@dataclass(frozen=True)
class TrainOptions(Optimisation):
    """Optimisation and augmentation of a keyword model. Learning rates are those of 64 clips a step; see lr_factor.

    Attributes:
        balance: classes are heard in proportion to their clips ^ (1 - balance): 0 as they are, 0.5 the rare ones more
            often, 1 all equally.
        label_smoothing, mixup: share of the label spread over all; Beta parameter (0: off).
        shift: seconds that a clip may move.
        gain_db: range of gains in decibels.
        noise_snr, noise_share: range of signal-to-noise ratios in decibels; share of the clips that get noise.
        background_snr, background_share: the same for recordings of noise, where there are any.
        noise_only_share: share of the clips that become such noise alone, and `_silence_`.
        speech_only_share: share of the clips that become a piece of other speech, and `_other_`, where there is any.
        room_decay, room_share: range of reverberation times in seconds; share of the clips heard in a room.
        clip_share: share of the clips whose peaks are cut off, at a fifth of the highest or above.
        rate_jitter: share by which the sampling rate, and with it speed and pitch, may vary.
        channel_move: share of the channels by which the spectrum may move, and with it the length of a throat.
        time_stretch: share by which a clip may be said faster or slower at the same pitch.
        band_share: share of the clips that lose the channels above a random one.
        time_mask, channel_mask: widest mask, in ticks and in channels; two of each a clip.
        stream_share: share of the steps that hear the clips as streams, with pauses between them.
        stream_pause: mean of the pauses, in clips.
        stream_gain_db: range of a clip's gain in a stream, in decibels.
        stream_snr, stream_bed_share: range of the ratio, in decibels, of a stream's words to the noise or other speech
            behind them; share of the streams that have such a bed, where there are recordings.
        stream_empty_share: share of the streams that are a bed alone.
        teacher_weight, temperature: share of the loss that the teachers have, where there are any; what logits are
            divided by before they are compared with theirs (above 1: softer).
        routing_balance, routing_z: weights of the experts' balance and z losses, where the model has experts.
        capacity: in training an expert takes no more than so many times its even share of a batch's steps, and what is
            beyond is dropped; None: it takes all.
    """

    balance: float = 0.0
    label_smoothing: float = 0.1
    mixup: float = 0.3
    shift: float = 0.1
    gain_db: tuple[float, float] = (-15.0, 6.0)
    noise_snr: tuple[float, float] = (5.0, 40.0)
    noise_share: float = 0.4
    background_snr: tuple[float, float] = (-3.0, 30.0)
    background_share: float = 0.4
    noise_only_share: float = 0.03
    speech_only_share: float = 0.04
    room_decay: tuple[float, float] = (0.1, 0.8)
    room_share: float = 0.2
    clip_share: float = 0.05
    rate_jitter: float = 0.12
    channel_move: float = 0.0
    time_stretch: float = 0.0
    band_share: float = 0.25
    time_mask: int = 25
    channel_mask: int = 10
    stream_share: float = 0.5
    stream_pause: float = 0.8
    stream_gain_db: tuple[float, float] = (-9.0, 6.0)
    stream_snr: tuple[float, float] = (0.0, 30.0)
    stream_bed_share: float = 0.8
    stream_empty_share: float = 0.1
    teacher_weight: float = 0.7
    temperature: float = 2.0
    routing_balance: float = 0.01
    routing_z: float = 0.001
    capacity: float | None = None

    def __post_init__(self) -> None:
        """Raise ValueError for values without sense."""
        super().__post_init__()
        if not 0 <= self.balance <= 1:
            raise ValueError(f"balance must be from 0 to 1, not {self.balance}")
        if not 0 <= self.teacher_weight <= 1:
            raise ValueError(f"teacher_weight must be from 0 to 1, not {self.teacher_weight}")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature must be a positive number, not {self.temperature}")
        if not all(0 <= weight < math.inf for weight in (self.routing_balance, self.routing_z)):
            raise ValueError(
                f"routing_balance and routing_z must be at least 0, not {self.routing_balance} and {self.routing_z}"
            )
        if self.capacity is not None and not self.capacity > 0:
            raise ValueError(f"capacity must be positive (1.25 is usual), or none at all, not {self.capacity}")

    @property
    def lr_factor(self) -> float:
        """By what all learning rates are multiplied: the square root of the batch over 64 clips.

        A k times larger batch has gradients whose noise is √k times smaller, and Adam divides by their size, so that
        its steps keep their noise if they grow with √k (Malladi et al. 2022, "On the SDEs and scaling rules for
        adaptive gradient algorithms"). Warm-up, decay and averaging are shares of the steps and follow by themselves.
        """
        return math.sqrt(self.batch / LR_BATCH)


@dataclass(frozen=True)
class GenerateOptions(Optimisation):
    """Optimisation of a generation model; the defaults are SaShiMi's (Goel et al. 2022, appendix C).

    Attributes:
        window: seconds of a recording that a step hears at once.
        carry: hand the state on to the window that follows: back-propagation is truncated at the windows' ends, but
            what the model remembers is not. Without it each window is heard as if nothing had been before.
        pad: learn the silence behind recordings shorter than a window too, so that what is made ends in it.
        speed: share by which windows may be faster or slower, and higher or lower with it: more voices than there are.
        softer: decibels by which windows may be softer.
    """

    batch: int = 8
    lr: float = 0.001
    weight_decay: float = 0.0
    window: float = 1.0
    carry: bool = False
    pad: bool = False
    speed: float = 0.0
    softer: float = 0.0

    def __post_init__(self) -> None:
        """Raise ValueError for values without sense."""
        super().__post_init__()
        if not (math.isfinite(self.window) and self.window > 0):
            raise ValueError(f"a window lasts more than 0 seconds, not {self.window}")
        if not 0 <= self.speed < 0.5:
            raise ValueError(f"speed must be from 0 to below 0.5, not {self.speed}")
        if not 0 <= self.softer < math.inf:
            raise ValueError(f"softer must be at least 0 dB, not {self.softer}")
        if self.carry and (self.speed or self.softer):
            raise ValueError(
                "windows that follow one another are heard as they are: carry goes without speed and softer"
            )


@dataclass(frozen=True)
class EnhanceOptions(Optimisation):
    """Optimisation of an enhancement model, and how speech and noise are mixed anew for every batch.

    Attributes:
        window: seconds that a step hears at once.
        speed: share by which speech may be faster or slower, and higher or lower with it.
        tone_db, noise_tone_db, tone_share: how far a microphone's response may stray at each octave, in decibels, for
            speech and for noise; share of the speech, and of the noise, that is heard so.
        room_decay, room_share: range of reverberation times in seconds, where no impulse responses are given; share of
            the speech heard in a room.
        early: seconds of a room's response that count as speech; what comes later is to be taken away.
        snr: range of the ratio of speech, while there is any, to noise, in decibels.
        noise_speed: factor by which recordings of noise may be slower or faster.
        second_share: share of the windows with a second noise.
        babble_share: share of the windows whose noise is not a recording but several voices.
        hiss_share: share of the windows whose noise has some of no recording, of a random colour.
        empty_share: share of the windows without speech.
        level_db: range of the level of speech, while there is any, in decibels below full scale.
        band_share, band_least: share of the windows in which all above a frequency is missing; the lowest such one, as
            a share of the highest that the rate holds.
        clip_share: share of the windows whose peaks are cut off, at a fifth of the highest or above.
        codec_share: share of the windows that come through a telephone or a codec (`audiossm.training.codec`).
        magnitude_weight, complex_weight: of the loss on compressed spectra, their magnitudes and themselves.
        sdr_weight: of the loss on the waveform, for each 10 dB of SI-SDR.
    """

    epochs: int = 300
    batch: int = 32
    lr: float = 0.003
    weight_decay: float = 0.01
    window: float = 3.0
    speed: float = 0.1
    tone_db: float = 3.0
    noise_tone_db: float = 6.0
    tone_share: float = 0.5
    room_decay: tuple[float, float] = (0.1, 0.8)
    room_share: float = 0.25
    early: float = 0.05
    snr: tuple[float, float] = (-5.0, 20.0)
    noise_speed: float = 1.5
    second_share: float = 0.3
    babble_share: float = 0.1
    hiss_share: float = 0.2
    empty_share: float = 0.03
    level_db: tuple[float, float] = (-40.0, -15.0)
    band_share: float = 0.1
    band_least: float = 0.4
    clip_share: float = 0.05
    codec_share: float = 0.0
    magnitude_weight: float = 70.0
    complex_weight: float = 30.0
    sdr_weight: float = 0.5

    def __post_init__(self) -> None:
        """Raise ValueError for values without sense."""
        super().__post_init__()
        if not 0.25 <= self.window < math.inf:
            raise ValueError(f"a window lasts at least 0.25 seconds, not {self.window}")
        for name in ("snr", "level_db", "room_decay"):
            low, high = getattr(self, name)
            if not -math.inf < low <= high < math.inf:
                raise ValueError(f"{name} is a range from low to high, not {low:g} to {high:g}")
        shares = {name: value for name, value in vars(self).items() if name.endswith(("share", "least"))}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise ValueError(f"{name} must be from 0 to 1, not {share}")
        if not 0 <= self.speed < 0.5:
            raise ValueError(f"speed must be from 0 to below 0.5, not {self.speed}")
        if not 1 <= self.noise_speed < math.inf:
            raise ValueError(f"noise_speed must be at least 1, not {self.noise_speed}")
        weights = (self.magnitude_weight, self.complex_weight, self.sdr_weight)
        if not all(0 <= weight < math.inf for weight in weights) or not any(weights):
            raise ValueError(f"weights of the loss must be at least 0, and one above, not {weights}")
