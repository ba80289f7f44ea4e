"""`audiossm train`: a data folder becomes a model."""

from pathlib import Path
from typing import Annotated

import typer

from audiossm.cli.app import app

train = typer.Typer(no_args_is_help=True, help="Train a model on a data folder (needs audiossm[train]).")
app.add_typer(train, name="train")


@train.command()
def keywords(
    context: typer.Context,
    data: Annotated[Path, typer.Option(help="A folder per word (Speech Commands' layout), or manifest.csv.")],
    out: Annotated[Path, typer.Option(help="Run folder to make: model, checkpoint and TensorBoard logs.")],
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Passes over the training clips: 120, or 10 with --extend.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Clips a step, over all devices together.")] = 64,
    lr: Annotated[
        float | None,
        typer.Option(help="Learning rate: 0.004, or 0.001 with --extend; SSM parameters have their own, 0.001."),
    ] = None,
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
    extend: Annotated[
        Path | None,
        typer.Option(help="Run folder whose model to begin with: --data then holds a few new recordings of its words."),
    ] = None,
    base: Annotated[
        Path | None, typer.Option(help="With --extend: the data that run was trained on, so that nothing is forgotten.")
    ] = None,
    label_column: Annotated[str, typer.Option(help="The manifest's column that holds the labels.")] = "label",
    devices: Annotated[str, typer.Option(help="'auto' (every GPU, else one CPU process) or a number.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Go on from where the run in --out stopped.")] = False,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Train a keyword model. It will hear any sampling rate, whatever the clips were recorded at.

    Example: audiossm train keywords --data speech_commands/ --out runs/kw

    With ten recordings of one's own of each word:
    audiossm train keywords --data mine/ --out runs/mine --extend runs/kw --base speech_commands/
    """
    from audiossm.tasks import KeywordConfig
    from audiossm.training import TrainOptions, train_keywords

    if (extend is None) != (base is None):
        raise typer.BadParameter("--extend RUN and --base DIR, the data that RUN was trained on, go together")
    size = ("width", "layers", "d_state", "channels", "modes", "rate")
    given = [name for name in size if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"]
    if extend is not None and given:
        raise typer.BadParameter(f"--{given[0].replace('_', '-')} is that of the model in {extend}: leave it out")
    config = KeywordConfig((), rate=rate, channels=channels, modes=modes, d_model=width, layers=layers, d_state=d_state)
    usual_epochs, usual_lr = (120, 0.004) if extend is None else (10, 0.001)
    options = TrainOptions(epochs=epochs or usual_epochs, batch=batch, lr=usual_lr if lr is None else lr, seed=seed)
    known = None if extend is None or base is None else (extend, base)
    train_keywords(
        data, out, config, options, resume, devices, label_column, noise, speech, progress, typer.echo, known
    )
    typer.echo(f"done: the model is in {out}; try: audiossm export {out} --out model.onnx")
