"""python -m experiments.family.figures: pictures of every model of the zoo and of runs on other data, into
figures/.

Each is a strip: samples, images above their reconstructions, and ways from one image to another, as
far as the model can. Images are of the test split, which must be here (JAXVAE_DATA_DIR).
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from experiments import runner
from experiments.family import setting
from experiments.family.cells import EVALUATION, FOLDER, folder
from experiments.runner import Option
from experiments.zoo import Wanted
from jaxvae import plots
from jaxvae.cli.use import Trained, chosen, open_run
from jaxvae.models import verbs
from jaxvae.presets import zoo
from jaxvae.presets.conditions import of_samples
from jaxvae.presets.config import source

ROWS, COLUMNS = 4, 8  # of images, in each part of a strip
GAP = 12  # px between parts
OPTIONS = (Option("only", None, str, "only NAME, or a glob of it", repeatable=True),)


def parts(trained: Trained) -> list[np.ndarray]:
    """Returns the parts of a strip, images [ROWS * COLUMNS, H, W, C] each, with the statistics that the
    commands would choose."""
    model, params, _ = trained.loaded
    system, rng, n = trained.system, jax.random.key(0), ROWS * COLUMNS
    drawn, coded = chosen(trained, None, samples=True), chosen(trained, None)
    test, found = source(trained.config, "test"), []
    batch = system.preprocess(rng, test.read(np.arange(n)))
    if model.sample is not None:
        cond = of_samples(system, batch, n)
        found.append(model.sample(params, drawn.state, rng, n, cond, stats=drawn.stats))
    if model.encode is not None and model.decode is not None:
        x_hat = verbs.reconstruct(model, params, coded.state, batch, stats=coded.stats)
        half = [np.asarray(x)[: n // 2] for x in (batch.x, x_hat)]
        pairs = [x.reshape(ROWS // 2, COLUMNS, *x.shape[1:]) for x in half]
        found.append(np.stack(pairs, 1).reshape(n, *batch.x.shape[1:]))
        ends = [jax.tree.map(lambda v, at=at: v[at : at + ROWS], batch) for at in (0, ROWS)]
        path = verbs.interpolate(
            model, params, coded.state, *ends, points=COLUMNS, stats=coded.stats
        )
        found.append(np.asarray(path).reshape(n, *path.shape[2:]))
    elif system.on_examples is None and model.prior is not None and model.decode is not None:
        path = verbs.interpolate_draws(
            model, params, drawn.state, rng, ROWS, points=COLUMNS, stats=drawn.stats
        )
        found.append(np.asarray(path).reshape(n, *path.shape[2:]))
    return [np.asarray(x) for x in found]


def strip(images: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the parts side by side, on white."""
    grids = [plots.grid(x, columns=COLUMNS, pad=1, scale=1) for x in images]
    gap = np.full((grids[0].shape[0], GAP, grids[0].shape[2]), 255, np.uint8)
    return np.concatenate([piece for each in grids for piece in (each, gap)][:-1], axis=1)


def picture_of(each: Wanted) -> Path:
    """Returns the file of a model's strip."""
    return FOLDER / "figures" / f"{setting.name(each).replace('/', '.')}.png"


def place_of(each: Wanted) -> Path | None:
    """Returns the folder of a model, in the zoo or where its first seed was trained and measured."""
    if each.name in zoo.names():
        return zoo.folder_of(each.name)
    run = folder(each, 0, False)
    return run if (run / EVALUATION).is_file() else None


@runner.command
def main(argv: Sequence[str] | None = None) -> None:
    """Draws every model that is there."""
    args = runner.parse(
        "experiments.family.figures", "Draws the models of the family.", OPTIONS, argv
    )
    for each in setting.models(args.only):
        place = place_of(each)
        if place is None:
            print(f"{each.name}: not in the zoo, nor trained here, so it is not drawn")
            continue
        plots.save_png(picture_of(each), strip(parts(open_run(place))))
        print(picture_of(each))


if __name__ == "__main__":
    main()
