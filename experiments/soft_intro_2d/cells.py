"""Table 2 and Figures 3 and 21 of the Soft-IntroVAE paper, one training run at a time (`sweep`
trains many in one program)."""

import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from experiments.needs import Needs, Part, batch, unfinished
from experiments.runner import Cell, Measure
from experiments.soft_intro_2d import measure, setting
from experiments.soft_intro_2d.setting import Run
from jaxvae import writers
from jaxvae.data import toy2d
from jaxvae.errors import UserError
from jaxvae.train import NonFinite, fit
from jaxvae.train import folder as folders
from jaxvae.types import Model

FOLDER = Path(__file__).parent
FRAME = 2_000  # samples of a frame of the film
SWEEPS = {
    "table_2": setting.TABLE_2,
    "readings": setting.READINGS,
    "figure_3": setting.FIGURE_3,
    "figure_21": setting.FIGURE_21,
}
ALL = {cell: run for runs in SWEEPS.values() for cell, run in runs.items()}


def workdir(cell: str, seed: int, smoke: bool = False) -> Path:
    """Returns the folder of a run, with its checkpoint and film; only the newest run of a cell and
    seed is kept, not in git."""
    return FOLDER / "runs" / ("smoke" if smoke else "full") / f"{cell.replace('/', '.')}.seed{seed}"


def sweep_folder(name: str, method: str, smoke: bool = False) -> Path:
    """Returns the folder of a sweep's runs of one method, while they are trained and measured."""
    return FOLDER / "runs" / ("smoke" if smoke else "full") / f"{name}.{method}"


def begun(name: str, method: str, smoke: bool = False) -> tuple[list[str], list[int]] | None:
    """Returns cells and seeds of a sweep's runs of one method that were stopped on their way; None
    where none were.

    Raises:
        UserError: for runs of other settings than those of the cells.
    """
    folder = sweep_folder(name, method, smoke)
    if not (folder / "config.json").exists():
        return None
    known = {
        (run.data, *sorted(run.hyper.items())): cell
        for cell, run in SWEEPS[name].items()
        if run.method == method
    }
    try:
        config = folders.read_config(folder)
        members = [dict(member) for member in config["members"]]
        seeds = dict.fromkeys(member.pop("seed") for member in members)
        settings = [(config["data"][m.pop("data")], *sorted(m.items())) for m in members]
        cells = dict.fromkeys(known[setting] for setting in settings)
    except (KeyError, IndexError, TypeError):
        raise UserError(
            f"{folder} holds runs of other settings that were stopped: delete it to begin anew."
        ) from None
    return list(cells), list(seeds)


def length(smoke: bool) -> tuple[int, int]:
    """Returns the steps of a run, and how many of them are a plain VAE."""
    return (30, 10) if smoke else (setting.STEPS, setting.NUM_VAE)


def config(run: Run, seed: int, smoke: bool) -> dict:
    """Returns what describes a run, for its folder."""
    steps, num_vae = length(smoke)
    return {
        "data": run.data,
        "method": run.method,
        **run.hyper,
        "seed": seed,
        "total_steps": steps,
        "num_vae": num_vae,
    }


def camera(model: Model) -> Callable[..., None]:
    """Returns (folder, step, params, seed) -> None, which writes samples of the model as one frame
    of a film."""
    frame = jax.jit(
        lambda params, key: model.sample(params, {"encoder": {}, "decoder": {}}, key, FRAME)
    )

    def shoot(folder: Path, step: int, params, seed: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{step:06}.npy", np.asarray(frame(params, jax.random.key(seed))))

    return shoot


def train(cell: str, run: Run, seed: int, smoke: bool) -> list[Measure]:
    """Trains one model and measures it; a run that was killed goes on where it was, a finished one
    is replaced."""
    steps, num_vae = length(smoke)
    folder = workdir(cell, seed, smoke)
    if (folder / "finished.json").exists():
        shutil.rmtree(folder)
    phases = setting.phases(run.method, steps, num_vae, **run.hyper)
    model = phases[-1].model
    source, preprocess = toy2d.generated(run.data)
    shoot = camera(model)

    def film(step, train_state):
        shoot(folder / "film", step, train_state.params, seed)

    with jax.default_matmul_precision("highest"):
        try:
            frames = 3 if smoke else 30
            result = fit(
                phases,
                setting.optimiser(),
                source,
                batch_size=setting.BATCH_SIZE,
                seed=seed,
                workdir=folder,
                preprocess=preprocess,
                eval_every=steps // frames,
                log_every=steps // frames,
                config=config(run, seed, smoke),
                on_eval=film,
            )
        except NonFinite as error:
            print(f"  {error}", flush=True)
            return measure.not_finite(steps)
        state = result.train_state
        found = measure.meter(run.data, model, smoke)(state.params, state.state, seed, steps)
    writers.write_json(folder / "finished.json", [m._asdict() for m in found])
    return found


def needs(cell: str, run: Run, sweep: str) -> Needs:
    """Returns what a cell needs; `sweep` trains it and its kind as one program."""

    def parts() -> list[Part]:
        tx, points = setting.optimiser(), batch(setting.BATCH_SIZE, 2)
        phases = setting.phases(run.method, **run.hyper)
        return [Part(phase.model, tx, points, phase.steps) for phase in phases]

    def stopped(seed: int) -> bool:
        return unfinished(workdir(cell, seed), "finished.json")

    def ensemble_stopped(seed: int) -> bool:
        try:
            found = begun(sweep, run.method)
        except UserError:  # which the sweep says itself
            return False
        return found is not None and cell in found[0] and seed in found[1]

    return Needs(
        steps=setting.STEPS,
        net=run.method,
        parts=parts,
        protocols=("released", "standard"),
        stopped=stopped,
        ensemble=("soft_intro_2d.sweep", sweep),
        ensemble_stopped=ensemble_stopped,
    )


def _trained(name: str, run: Run, sweep: str) -> Cell:
    return Cell(
        name, lambda seed, smoke: train(name, run, seed, smoke), needs=needs(name, run, sweep)
    )


CELLS = [
    *(_trained(name, run, sweep) for sweep, runs in SWEEPS.items() for name, run in runs.items()),
    *(
        Cell(
            f"{name}/real",
            lambda seed, smoke, name=name: measure.floor(name, seed, smoke),
            needs=Needs(net="real", protocols=("released", "standard")),
        )
        for name in setting.DATA
    ),
]
