"""The command that edits a picture with a model of the registry."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli_models import open_named
from flows.options import Debug, Json
from flows.session import answer

if TYPE_CHECKING:
    from model.pipeline import Picture

UNNAMED = "tiny"  # profile of a model folder, which does not name its own


def edit(
    image: Annotated[str, typer.Argument(help="The picture to start from: a file, or the number of a test session.")],
    instructions: Annotated[list[str], typer.Argument(help="One instruction per turn, each in quotes.")],
    model: Annotated[
        str, typer.Option(help="A registered model (edit-r2@champion, edit-r2/3) or a model folder.")
    ] = "edit-r2@champion",
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile", "-p", help=f"Draw as this profile's evaluation; default: the model's own, or {UNNAMED}."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the strip of all pictures goes.")] = Path("edit.png"),
    points: Annotated[
        int | None, typer.Option(help="Points of the time grid; one less is the number of steps.", min=2)
    ] = None,
    shift: Annotated[float | None, typer.Option(help="Shift of the time grid towards noise; 1 is none.")] = None,
    noise_scale: Annotated[
        float | None, typer.Option(help="Of a picture's first noise; less draws what is likelier.", min=0)
    ] = None,
    text_guidance: Annotated[float | None, typer.Option(help="1 is off.")] = None,
    image_guidance: Annotated[float | None, typer.Option(help="1 is off.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same pictures.")] = 0,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Edit a picture over several turns and draw all of them as one strip.

    Sampling is that by which the model was judged, unless an option says otherwise.
    """
    folder, own = _model(model, debug)

    import numpy as np

    from model import distributed, runtime
    from model.guidance import Guidance
    from model.images import for_vae
    from model.pipeline import EditPipeline, as_pixels
    from model.strips import draw_strip
    from tasks.parameters import load

    named = profile or own
    asked = {
        "points": points,
        "shift": shift,
        "noise_scale": noise_scale,
        "text_guidance": text_guidance,
        "image_guidance": image_guidance,
    }
    judged = load(named).evaluation.sampling
    sampling = replace(judged, **{name: value for name, value in asked.items() if value is not None})  # type: ignore[arg-type]
    runtime.prepare()
    pipeline = EditPipeline.from_pretrained(folder, device=distributed.device())
    source = as_pixels(_picture(image, named))
    made = pipeline(
        source,
        instructions,
        points=sampling.points,
        shift=sampling.shift,
        noise_scale=sampling.noise_scale,
        guidance=Guidance(text=sampling.text_guidance, image=sampling.image_guidance),
        trace_tokens=sampling.max_trace if sampling.write_trace else 0,
        temperature=sampling.temperature,
        seed=seed,
    )
    first = for_vae(source[None], pipeline.bundle.model.config)[0]
    captions = [f"{text} [{trace}]" for text, trace in zip(instructions, made.traces, strict=True)]
    strip = draw_strip([first, *(np.asarray(picture) for picture in made.images)], ["source", *captions])
    partial = out.with_name(f".{out.name}.partial")
    strip.save(partial, "PNG")
    partial.replace(out)
    if as_json:
        answer({"strip": str(out), "traces": made.traces})
    else:
        typer.echo("\n".join((*captions, f"drawn in {out}")))


def _model(model: str, debug: bool) -> tuple[Path, str]:
    """Files and profile of a model, by folder, alias or version; files of the registry are verified."""
    if Path(model).is_dir():
        from tasks.settings import prepare

        prepare(debug)
        return Path(model), UNNAMED
    from data.errors import UserError
    from mlflow_config.settings import Tag
    from tasks import models

    books, number = open_named(model, debug)
    version = number or books.registry.alias(books.alias)
    if version is None:
        raise UserError(f"nothing is {model}", "Run `edit-r2 run` first, or give --model a folder")
    found = books.registry.version(version)
    return models.fetch(found.model_id), found.tags.get(Tag.PROFILE, UNNAMED)


def _picture(image: str, profile: str) -> Picture:
    """The picture of a file, or the source of a test session of the profile's benchmark.

    Raises:
        UserError: a number beyond the benchmark, or a benchmark that is not built.
    """
    if not image.isdigit() or Path(image).exists():
        return image
    from data.errors import UserError
    from data.loader import SessionFolder
    from tasks.settings import settings

    sessions = SessionFolder(settings().root / "data" / "benchmark" / profile, "test", targets=False)
    if int(image) >= len(sessions):
        raise UserError(f"the benchmark of {profile} has no session {image}", f"Name one of 0 to {len(sessions) - 1}")
    return sessions[int(image)].images[0]
