"""The command that edits a picture with a model of the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.cli_models import open_named
from flows.options import Debug, Json
from flows.session import answer


def edit(
    image: Annotated[Path, typer.Argument(help="The picture to start from.")],
    instructions: Annotated[list[str], typer.Argument(help="One instruction per turn, each in quotes.")],
    model: Annotated[
        str, typer.Option(help="A registered model (edit-r2@champion, edit-r2/3) or a model folder.")
    ] = "edit-r2@champion",
    out: Annotated[Path, typer.Option(help="Where the strip of all pictures goes.")] = Path("edit.png"),
    points: Annotated[int, typer.Option(help="Points of the time grid; one less is the number of steps.")] = 9,
    shift: Annotated[float, typer.Option(help="Shift of the time grid towards noise; 1 is none.")] = 1.0,
    noise_scale: Annotated[float, typer.Option(help="Of a picture's first noise; less draws what is likelier.")] = 1.0,
    text_guidance: Annotated[float, typer.Option(help="1 is off.")] = 1.0,
    image_guidance: Annotated[float, typer.Option(help="1 is off.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same pictures.")] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Edit a picture over several turns and draw all of them as one strip."""
    folder = _folder(model, debug)

    import numpy as np

    from model import runtime
    from model.guidance import Guidance
    from model.images import for_vae
    from model.pipeline import EditPipeline, as_pixels
    from model.strips import draw_strip

    runtime.prepare()
    pipeline = EditPipeline.from_pretrained(folder)
    guidance = Guidance(text=text_guidance, image=image_guidance)
    made = pipeline(
        image, instructions, points=points, shift=shift, noise_scale=noise_scale, guidance=guidance, seed=seed
    )
    source = for_vae(as_pixels(image)[None], pipeline.bundle.model.config)[0]
    captions = [f"{text} [{trace}]" for text, trace in zip(instructions, made.traces, strict=True)]
    strip = draw_strip([source, *(np.asarray(picture) for picture in made.images)], ["source", *captions])
    partial = out.with_name(f".{out.name}.partial")
    strip.save(partial, "PNG")
    partial.replace(out)
    if as_json:
        answer({"strip": str(out), "traces": made.traces})
    else:
        typer.echo("\n".join((*captions, f"drawn in {out}")))


def _folder(model: str, debug: bool) -> Path:
    """Files of a model, by folder, alias or version; those of the registry are verified."""
    if Path(model).is_dir():
        from tasks.settings import prepare

        prepare(debug)
        return Path(model)
    from data.errors import UserError
    from tasks import models

    books, number = open_named(model, debug)
    version = number or books.registry.alias(books.alias)
    if version is None:
        raise UserError(f"nothing is {model}", "Run `edit-r2 run` first, or give --model a folder")
    return models.fetch(books.registry.version(version).model_id)
