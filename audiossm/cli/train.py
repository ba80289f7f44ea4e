"""`audiossm train`: a data folder becomes a model."""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from audiossm.cli.app import app
from audiossm.cli.options import column_value, span, whole_numbers

WHEN = re.compile(r'^    when = \(?\s*"(.+)"$', re.MULTILINE)


def mixers() -> str:
    """Say when to take which mixer: what their files say, read without torch, which help has to do without."""
    package = find_spec("audiossm.mixers")
    assert package is not None and package.submodule_search_locations
    files = sorted(Path(package.submodule_search_locations[0]).glob("*.py"))
    said = {file.stem: WHEN.search(file.read_text(encoding="utf-8")) for file in files}
    lines = [f"- **{name.replace('_', '-')}**: {when[1]}" for name, when in said.items() if when]
    return "\n".join(["Mixers (`--mixer`), and when to take which:", "", *lines])


# What all trainings take.
Devices = Annotated[
    str, typer.Option(help="'auto' (torchrun's processes, else every GPU, else one CPU process) or a number.")
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on from where the run in --out stopped, on any number of devices.")
]
Minutes = Annotated[
    float | None,
    typer.Option(
        help="Instead of --epochs: train for so long, whatever the machine, and be complete then. "
        "Such a run cannot be repeated to the bit."
    ),
]
Progress = Annotated[bool, typer.Option(help="Show a progress bar.")]
LabelColumn = Annotated[str, typer.Option(help="The manifest's column that holds the labels.")]

MIXERS = mixers()
train = typer.Typer(no_args_is_help=True, help="Train a model on a data folder (needs audiossm[train]).", epilog=MIXERS)
app.add_typer(train, name="train")


def lasting(epochs: int | None, minutes: float | None) -> dict[str, float | None]:
    """Return the settings that say how long a training is."""
    if epochs is not None and minutes is not None:
        raise typer.BadParameter("--epochs and --minutes both say how long to train: leave one out")
    return {"epochs": epochs, "minutes": minutes}


@train.command(epilog=MIXERS)
def keywords(
    data: Annotated[Path, typer.Option(help="A folder per word (Speech Commands' layout), or manifest.csv.")],
    out: Annotated[Path, typer.Option(help="Run folder to make: model, checkpoint and TensorBoard logs.")],
    recipe: Annotated[str, typer.Option(help="Sizes and settings, together: base, small or paper-s4d.")] = "base",
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training clips; 10 with --extend.")] = None,
    minutes: Minutes = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Clips a step, over all devices together; a multiple of their number.")
    ] = None,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Learning rate for 64 clips a step; SSM parameters have 0.001. "
            "Both are multiplied by the square root of batch / 64."
        ),
    ] = None,
    balance: Annotated[
        float | None, typer.Option(min=0, max=1, help="Hear rare classes more often: 0 as they are, 1 all equally.")
    ] = None,
    stream_share: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of the steps that hear streams: words with pauses, in noise."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order and augmentation.")] = None,
    mixer: Annotated[str | None, typer.Option(help="What mixes time in the layers: see below.")] = None,
    pattern: Annotated[
        str | None,
        typer.Option(
            help="Unlike layers, repeated to the depth: 's4d*3 attention', 'mamba+mlp mamba+experts' (with an MLP or "
            "experts), 'bidirectional:s4d' (for recordings alone), or 'jamba'."
        ),
    ] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Channels of the stack (d_model).")] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Layers of the stack.")] = None,
    d_state: Annotated[int | None, typer.Option(min=2, help="Real state dimensions a channel (N).")] = None,
    channels: Annotated[int | None, typer.Option(min=1, help="Channels of the filterbank.")] = None,
    modes: Annotated[int | None, typer.Option(min=1, help="Modes of a channel: the order of its filter.")] = None,
    rate: Annotated[
        int | None, typer.Option(min=4000, help="Native sampling rate in Hz (16000); clips are resampled to it.")
    ] = None,
    noise: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of noise recordings, to put behind the clips and to learn as silence. Repeatable."),
    ] = None,
    speech: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of recordings of other speech, to put there and to learn as `_other_`. Repeatable."),
    ] = None,
    extend: Annotated[
        Path | None,
        typer.Option(help="Run folder whose model to begin with: --data then holds a few new recordings of its words."),
    ] = None,
    base: Annotated[
        Path | None, typer.Option(help="With --extend: the data that run was trained on, so that nothing is forgotten.")
    ] = None,
    teacher: Annotated[
        list[Path] | None,
        typer.Option(help="Run folder whose model, of the same labels, is to be imitated too; several: their mean."),
    ] = None,
    teacher_weight: Annotated[
        float | None, typer.Option(min=0, max=1, help="With --teacher: share of the loss that is imitation (0.7).")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="With --teacher: above 1 its less likely words weigh more (2).")
    ] = None,
    routing_balance: Annotated[
        float | None, typer.Option(min=0, help="With experts: weight of the loss that spreads their use (0.01).")
    ] = None,
    capacity: Annotated[
        float | None,
        typer.Option(help="With experts: the most that one takes in training, in even shares; the rest is dropped."),
    ] = None,
    label_column: LabelColumn = "label",
    download: Annotated[
        bool, typer.Option("--download", help="First fetch Speech Commands (2.3 GB) into --data, unless it is there.")
    ] = False,
    devices: Devices = "auto",
    resume: Resume = False,
    progress: Progress = True,
) -> None:
    """Train a keyword model. It will hear any sampling rate, whatever the clips were recorded at.

    What is not given comes from the recipe. Ctrl-C and SIGTERM leave a checkpoint; --resume goes on from it.

    Example: audiossm train keywords --data speech_commands/ --out runs/kw

    Several processes: torchrun --nproc-per-node 2 -m audiossm train keywords --data speech_commands/ --out runs/kw

    With ten recordings of one's own of each word:
    audiossm train keywords --data mine/ --out runs/mine --extend runs/kw --base speech_commands/

    A smaller model that imitates larger ones:
    audiossm train keywords --data speech_commands/ --out runs/s --recipe small --teacher runs/a --teacher runs/b
    """
    from audiossm.backbones.hybrid import read_pattern
    from audiossm.data import download_speech_commands
    from audiossm.training import train_keywords
    from audiossm.training.extend import SHORT
    from audiossm.training.recipes import load_recipe

    if mixer and pattern:
        raise typer.BadParameter("--pattern names the mixers of all layers: leave out --mixer")
    sizes = {
        "rate": rate,
        "channels": channels,
        "modes": modes,
        "d_model": width,
        "layers": layers,
        "d_state": d_state,
    }
    imitation = {"teacher_weight": teacher_weight, "temperature": temperature}
    settings = {"batch": batch, "lr": lr, "balance": balance, "stream_share": stream_share}
    settings |= lasting(epochs, minutes)
    settings |= {"routing_balance": routing_balance, "capacity": capacity, "seed": seed, **imitation}
    if (extend is None) != (base is None):
        raise typer.BadParameter("--extend RUN and --base DIR, the data that RUN was trained on, go together")
    if not teacher and any(value is not None for value in imitation.values()):
        raise typer.BadParameter("--teacher-weight and --temperature go with --teacher RUN")
    given = [name for name, value in ({"mixer": mixer, "pattern": pattern} | sizes).items() if value is not None]
    if extend is not None and given:
        flag = given[0].replace("d_model", "width").replace("_", "-")
        raise typer.BadParameter(f"--{flag} is that of the model in {extend}: leave it out")
    chosen = load_recipe(recipe)
    if mixer or pattern:
        chosen = chosen.with_layers(pattern or mixer or "", layers)
    chosen = chosen.changed({}, {} if extend is None else SHORT).changed(sizes, settings)
    experts = any(channels == "experts" for *_, channels in read_pattern(chosen.config.pattern, chosen.config.layers))
    if extend is None and not experts and (routing_balance is not None or capacity is not None):
        raise typer.BadParameter("--routing-balance and --capacity go with a --pattern that has experts")
    if chosen.config.encoder == "waveform" and (channels or modes):
        raise typer.BadParameter(f"recipe {recipe} has no filterbank: leave out --channels and --modes")
    if download:
        data = download_speech_commands(data)
    train_keywords(
        data,
        out,
        chosen.config,
        chosen.options,
        resume,
        devices,
        label_column,
        noise or (),
        speech or (),
        progress,
        say=typer.echo,
        extend=None if extend is None or base is None else (extend, base),
        teachers=teacher or (),
    )


@train.command(epilog=MIXERS)
def generate(
    data: Annotated[Path, typer.Option(help="Any folder of audio, with or without a manifest.csv.")],
    out: Annotated[Path, typer.Option(help="Run folder to make: model, checkpoint and TensorBoard logs.")],
    recipe: Annotated[str, typer.Option(help="Sizes and settings, together: sashimi, small or stack.")] = "sashimi",
    rate: Annotated[
        int | None, typer.Option(min=1000, help="Sampling rate in Hz, to which all is resampled; the recordings' own.")
    ] = None,
    where: Annotated[
        list[str] | None, typer.Option(help="Rows of the manifest to keep, as column=value. Repeatable.")
    ] = None,
    conditional: Annotated[
        bool, typer.Option("--conditional", help="Tell the model the labels, so that it can be asked for one of them.")
    ] = False,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training windows.")] = None,
    minutes: Minutes = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Windows a step, over all devices together; a multiple of their number.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate; SSM parameters have 0.001.")] = None,
    window: Annotated[float | None, typer.Option(help="Seconds that a step hears of a recording.")] = None,
    carry: Annotated[
        bool,
        typer.Option("--carry", help="Windows follow one another, and the state is carried on between them."),
    ] = False,
    pad: Annotated[
        bool, typer.Option("--pad", help="Learn the silence behind recordings shorter than a window too.")
    ] = False,
    speed: Annotated[
        float | None, typer.Option(help="Share by which windows may be faster or slower, and higher or lower (0).")
    ] = None,
    softer: Annotated[float | None, typer.Option(help="Decibels by which windows may be softer (0).")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights and order.")] = None,
    coding: Annotated[
        str | None, typer.Option(help="mu-law or linear (8 bits), or mixture (16 bits, of logistics).")
    ] = None,
    mixer: Annotated[str | None, typer.Option(help="What mixes time in the layers: see below.")] = None,
    pattern: Annotated[
        str | None, typer.Option(help="Unlike layers, repeated to the depth: 's4d*3 attention', 'mamba+mlp' ...")
    ] = None,
    centre: Annotated[
        str | None, typer.Option(help="The same for the layers behind the last pool: 'mamba2', 's4d attention' ...")
    ] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Channels at the sample rate (d_model).")] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Layers of each tier, or of a plain stack.")] = None,
    pools: Annotated[
        str | None, typer.Option(help="Samples that become one at each pool: '4,4'; 'none' for a plain stack.")
    ] = None,
    d_state: Annotated[int | None, typer.Option(min=2, help="Real state dimensions a channel (N).")] = None,
    dropout: Annotated[float | None, typer.Option(min=0, max=1, help="Share of channels left out in training.")] = None,
    label_column: LabelColumn = "label",
    memory: Annotated[
        float, typer.Option(help="GB of audio that a process keeps in memory; more is read from disk as needed.")
    ] = 8.0,
    devices: Devices = "auto",
    resume: Resume = False,
    progress: Progress = True,
) -> None:
    """Train a model that makes audio, sample by sample, from any folder of it.

    What is not given comes from the recipe. Ctrl-C and SIGTERM leave a checkpoint; --resume goes on from it.

    Example: audiossm train generate --data music/ --out runs/music

    Spoken digits, told which one: audiossm train generate --data digits/ --conditional --where language=en --out runs/d

    Baselines: audiossm train generate --data music/ --recipe stack --mixer tcn --layers 3 --out runs/wavenet
    """
    from audiossm.training import train_generation
    from audiossm.training.recipes import load_recipe

    if mixer and pattern:
        raise typer.BadParameter("--pattern names the mixers of all layers: leave out --mixer")
    chosen = load_recipe(recipe, "generation")
    if mixer or pattern:
        chosen = chosen.with_layers(pattern or mixer or "", layers)
    sizes = {
        "rate": rate,
        "coding": coding,
        "centre": centre,
        "d_model": width,
        "layers": layers,
        "pools": None if pools is None else whole_numbers(pools),
        "d_state": d_state,
        "dropout": dropout,
    }
    settings = {"batch": batch, "lr": lr, "window": window, "carry": carry, "pad": pad, "seed": seed}
    settings |= {"speed": speed, "softer": softer}
    chosen = chosen.changed(sizes, settings | lasting(epochs, minutes))
    train_generation(
        data,
        out,
        chosen.config,
        chosen.options,
        resume,
        devices,
        conditional,
        label_column,
        dict(column_value(row) for row in where or ()),
        memory,
        progress,
        say=typer.echo,
    )


@train.command(epilog=MIXERS)
def enhance(
    out: Annotated[Path, typer.Option(help="Run folder to make: model, checkpoint and TensorBoard logs.")],
    clean: Annotated[
        Path | None, typer.Option(help="Any folder of clean speech, with or without manifest.csv.")
    ] = None,
    noise: Annotated[
        list[Path] | None, typer.Option(help="Folder of recordings of noise, to mix with the speech. Repeatable.")
    ] = None,
    rir: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of impulse responses of rooms; without it rooms are made up. Repeatable."),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(help="Instead of --clean and --noise: folder of noisy and clean files (VoiceBank-DEMAND, DNS)."),
    ] = None,
    val_clean: Annotated[Path | None, typer.Option(help="Folder of clean speech to watch while training.")] = None,
    val_noise: Annotated[
        list[Path] | None, typer.Option(help="Folder of noise to mix it with; else that of --noise. Repeatable.")
    ] = None,
    recipe: Annotated[str, typer.Option(help="Sizes and settings, together: base, small or waveform.")] = "base",
    rate: Annotated[
        int | None, typer.Option(min=4000, help="Native sampling rate in Hz (16000); recordings are resampled to it.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training windows.")] = None,
    minutes: Minutes = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Windows a step, over all devices together; a multiple of their number.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate; SSM parameters have 0.001.")] = None,
    window: Annotated[float | None, typer.Option(help="Seconds that a step hears of a recording (3).")] = None,
    snr: Annotated[str | None, typer.Option(help="Range of speech to noise in dB (-5,20).")] = None,
    level: Annotated[
        str | None, typer.Option(help="Range of the speech's level in dB of full scale (-40,-15).")
    ] = None,
    speed: Annotated[float | None, typer.Option(help="Share by which speech may be faster or slower (0.1).")] = None,
    room_share: Annotated[float | None, typer.Option(help="Share of the speech that is heard in rooms (0.25).")] = None,
    early: Annotated[
        float | None, typer.Option(help="Seconds of a room's response to keep (0.05); the rest is taken away.")
    ] = None,
    band_share: Annotated[float | None, typer.Option(help="Share that lacks its high frequencies (0.1).")] = None,
    clip_share: Annotated[float | None, typer.Option(help="Share whose peaks are cut off (0.05).")] = None,
    codec_share: Annotated[float | None, typer.Option(help="Share that telephones or codecs have sent (0).")] = None,
    empty_share: Annotated[float | None, typer.Option(help="Share without speech (0.03).")] = None,
    magnitude_weight: Annotated[
        float | None, typer.Option(help="Of the loss on magnitudes of compressed spectra (70).")
    ] = None,
    complex_weight: Annotated[float | None, typer.Option(help="Of the loss on compressed spectra (30).")] = None,
    sdr_weight: Annotated[float | None, typer.Option(help="Of the loss on waveforms, 10 dB of SI-SDR (0.5).")] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, order and mixing.")] = None,
    mixer: Annotated[
        str | None,
        typer.Option(help="What mixes time, on the spectrum: s4d for each band, or another for all of them."),
    ] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Channels of a group of bands (d_model).")] = None,
    layers: Annotated[int | None, typer.Option(min=1, help="Blocks of the stack, or of each tier.")] = None,
    d_state: Annotated[int | None, typer.Option(min=2, help="Real state dimensions a channel (N).")] = None,
    dropout: Annotated[float | None, typer.Option(min=0, max=1, help="Share of channels left out in training.")] = None,
    memory: Annotated[
        float, typer.Option(help="GB of speech that a process keeps in memory; more is read from disk as needed.")
    ] = 8.0,
    devices: Devices = "auto",
    resume: Resume = False,
    progress: Progress = True,
) -> None:
    """Train a model that takes noise away from speech, live: speech and noise are mixed anew for every batch.

    What is not given comes from the recipe. Ctrl-C and SIGTERM leave a checkpoint; --resume goes on from it.

    Example: audiossm train enhance --clean speech/ --noise noise/ --out runs/dn

    Recorded pairs: audiossm train enhance --pairs voicebank/ --out runs/vb
    """
    from audiossm.training import train_enhancement
    from audiossm.training.recipes import load_recipe

    if (clean is None) == (pairs is None) or (clean is None) == bool(noise):
        raise typer.BadParameter("give --clean DIR and --noise DIR, or --pairs DIR")
    sizes = {"rate": rate, "d_model": width, "layers": layers, "d_state": d_state, "dropout": dropout}
    settings = {
        **lasting(epochs, minutes),
        "batch": batch,
        "lr": lr,
        "window": window,
        "snr": span(snr),
        "level_db": span(level),
        "speed": speed,
        "room_share": room_share,
        "early": early,
        "band_share": band_share,
        "clip_share": clip_share,
        "codec_share": codec_share,
        "empty_share": empty_share,
        "magnitude_weight": magnitude_weight,
        "complex_weight": complex_weight,
        "sdr_weight": sdr_weight,
        "seed": seed,
    }
    chosen = load_recipe(recipe, "enhancement")
    if mixer and mixer != chosen.config.mixer:
        chosen = chosen.with_mixer(mixer)
    chosen = chosen.changed(sizes, settings)
    train_enhancement(
        out,
        chosen.config,
        chosen.options,
        clean,
        noise or (),
        rir or (),
        pairs,
        val_clean,
        val_noise or (),
        resume,
        devices,
        memory,
        progress,
        say=typer.echo,
    )
