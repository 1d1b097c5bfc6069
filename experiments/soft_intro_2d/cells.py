"""Table 2 of the Soft-IntroVAE paper, one training run at a time (`sweep` trains all of them in one program)."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np

from experiments.runner import Cell, Measure
from experiments.soft_intro_2d import measure, setting
from jaxvae.data import toy2d
from jaxvae.train import NonFinite, fit

RUNS = Path(__file__).parent / "runs"   # checkpoints and film of the newest run of each cell; not kept in git
FRAME = 2_000                           # samples of a frame of the film


def workdir(name: str, method: str, seed: int, smoke: bool = False) -> Path:
    """Returns the folder of a run."""
    return RUNS / ("smoke" if smoke else "full") / f"{name}.{method}.seed{seed}"


def run(name: str, method: str, seed: int, smoke: bool) -> list[Measure]:
    """Trains one model and measures it; a run that was killed goes on where it was, a finished one is replaced."""
    steps, num_vae = (30, 10) if smoke else (setting.STEPS, setting.NUM_VAE)
    folder = workdir(name, method, seed, smoke)
    if (folder / "finished.json").exists():
        shutil.rmtree(folder)
    hyper = setting.HYPER[name][method]
    phases = setting.phases(method, steps, num_vae, **hyper)
    source, preprocess = toy2d.generated(name)
    config = {"data": name, "method": method, **hyper, "seed": seed, "total_steps": steps, "num_vae": num_vae}
    frame = jax.jit(lambda params, key: phases[-1].model.sample(params, {"encoder": {}, "decoder": {}}, key, FRAME))

    def film(step, train_state):
        (folder / "film").mkdir(exist_ok=True)
        np.save(folder / "film" / f"{step:06}.npy", np.asarray(frame(train_state.params, jax.random.key(seed))))

    with jax.default_matmul_precision("highest"):
        try:
            result = fit(phases, setting.optimiser(), source, batch_size=setting.BATCH_SIZE, seed=seed, workdir=folder,
                         preprocess=preprocess, eval_every=max(1, steps // 30), log_every=max(1, steps // 30), config=config,
                         on_eval=film)
        except NonFinite as error:
            print(f"  {error}", flush=True)
            return measure.not_finite(steps)
        state = result.train_state
        found = measure.meter(name, phases[-1].model, smoke)(state.params, state.state, seed, steps)
    (folder / "finished.json").write_text(json.dumps([m._asdict() for m in found], indent=1))
    return found


CELLS = [
    *(Cell(f"{name}/{method}", lambda seed, smoke, name=name, method=method: run(name, method, seed, smoke))
      for name in setting.DATA for method in setting.METHODS),
    *(Cell(f"{name}/real", lambda seed, smoke, name=name: measure.floor(name, seed, smoke)) for name in setting.DATA),
]
