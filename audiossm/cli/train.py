"""`audiossm train`: a data folder becomes a model."""

from pathlib import Path
from typing import Annotated

import typer

from audiossm.cli.app import app

train = typer.Typer(no_args_is_help=True, help="Train a model on a data folder (needs audiossm[train]).")
app.add_typer(train, name="train")


@train.command()
def keywords(
    data: Annotated[Path, typer.Option(help="A folder per word (Speech Commands' layout), or manifest.csv.")],
    out: Annotated[Path, typer.Option(help="Run folder to make: model, checkpoint and TensorBoard logs.")],
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training clips.")] = 120,
    batch: Annotated[int, typer.Option(min=1, help="Clips a step, over all devices together.")] = 64,
    lr: Annotated[float, typer.Option(help="Learning rate; SSM parameters have their own, 0.001.")] = 0.004,
    seed: Annotated[int, typer.Option(help="Of weights, order and augmentation.")] = 0,
    width: Annotated[int, typer.Option(min=1, help="Channels of the S4D stack (d_model).")] = 120,
    layers: Annotated[int, typer.Option(min=1, help="Layers of the stack.")] = 6,
    d_state: Annotated[int, typer.Option(min=2, help="Real state dimensions a channel (N).")] = 16,
    channels: Annotated[int, typer.Option(min=1, help="Channels of the filterbank.")] = 64,
    modes: Annotated[int, typer.Option(min=1, help="Modes of a channel: the order of its filter.")] = 4,
    rate: Annotated[int, typer.Option(min=4000, help="Native sampling rate in Hz; clips are resampled to it.")] = 16000,
    noise: Annotated[
        Path | None, typer.Option(help="Folder of noise recordings, to put behind the clips and to learn as silence.")
    ] = None,
    speech: Annotated[
        Path | None, typer.Option(help="Folder of recordings of other speech, to learn as the class `_other_`.")
    ] = None,
    label_column: Annotated[str, typer.Option(help="The manifest's column that holds the labels.")] = "label",
    devices: Annotated[str, typer.Option(help="'auto' (every GPU, else one CPU process) or a number.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from where the run in --out stopped.")] = False,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Train a keyword model. It will hear any sampling rate, whatever the clips were recorded at.

    Example: audiossm train keywords --data speech_commands/ --out runs/kw
    """
    from audiossm.tasks import KeywordConfig
    from audiossm.training import TrainOptions, train_keywords

    config = KeywordConfig((), rate=rate, channels=channels, modes=modes, d_model=width, layers=layers, d_state=d_state)
    options = TrainOptions(epochs=epochs, batch=batch, lr=lr, seed=seed)
    train_keywords(data, out, config, options, resume, devices, label_column, noise, speech, progress, say=typer.echo)
    typer.echo(f"done: the model is in {out}; try: audiossm export {out} --out model.onnx")
