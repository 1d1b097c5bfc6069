"""The card of a released model: README.md with the header that the Hugging Face Hub reads."""

import json
import re
import shlex
from typing import Any, NamedTuple

from jaxvae.presets import conditions, finish, measure, record
from jaxvae.presets.config import System
from jaxvae.presets.record import Saved

LICENSE = "unknown"  # whoever releases a model says under which licence
HUB_DATA = {  # data set -> its name on the Hub
    "mnist": "ylecun/mnist",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "cifar10": "uoft-cs/cifar10",
    "svhn_cropped": "ufldl-stanford/svhn",
}
SHOWN = 16  # samples that its example draws


class About(NamedTuple):
    """What a card says of a model, beside its settings."""

    name: str  # as `jaxvae.load` is given it
    license: str  # as the Hub calls it
    page: dict[str, Any]  # config.json of the released model
    evaluation: dict[str, Any] | None  # evaluation.json
    pictured: bool  # whether there is samples.png beside it


def text(saved: Saved, system: System, about: About) -> str:
    """Returns README.md of a released model."""
    preset, page = saved.preset, about.page
    name = record.name_of(saved.config)
    what = (preset.options.__doc__ or "").removeprefix("Train ").strip()
    step, count = page["step"], page["parameters"]
    picture = "![samples](samples.png)\n\n" if about.pictured else ""
    return (
        f"{_header(saved, system, about)}\n# {name}, {saved.config.data}\n\n{picture}"
        f"{what[:1].upper()}{what[1:]} Of {saved.config.data}, examples of shape "
        f"{list(saved.shape)}; {count:,} parameters, {step:,} steps.\n\n"
        f"    {preset.equation}\n\n"
        f"{_use(saved, system, about)}\n{_numbers(system, about)}\n{_made(about)}"
    )


def license_of(card: str) -> str:
    """Returns the licence that a card names in its header, or that nobody has said."""
    found = re.search(r'^license: ("[^"\\\n]*")$', card.partition("\n---\n")[0], re.MULTILINE)
    return json.loads(found[1]) if found else LICENSE


def _header(saved: Saved, system: System, about: About) -> str:
    """Returns the header: YAML, of which JSON is a part."""
    lists = {
        "tags": dict.fromkeys(["jaxvae", "jax", "vae", record.name_of(saved.config)]),
        "datasets": [HUB_DATA[saved.config.data]] if saved.config.data in HUB_DATA else [],
        "metrics": dict.fromkeys(row["metric"] for row in _rows(about)),
    }
    lines = ["---", f"license: {json.dumps(about.license)}", "library_name: jaxvae"]
    if "samples" in finish.pictures(system, saved.shape) and _unconditional(system):
        lines.append("pipeline_tag: unconditional-image-generation")
    for key, values in lists.items():
        if values:
            lines += [f"{key}:", *(f"- {json.dumps(value)}" for value in values)]
    return "\n".join([*lines, "---", ""])


def _unconditional(system: System) -> bool:
    return system.classes is None and system.on_examples is None


def _use(saved: Saved, system: System, about: About) -> str:
    """Returns how it is loaded and used, in Python and by commands."""
    lines = ["import jax", "import jaxvae", ""]
    lines.append(f"model, params, state = jaxvae.load({json.dumps(about.name)})")
    call = f"model.sample(params, state, jax.random.key(0), {SHOWN}"
    like = conditions.example_like(system.preprocess, saved.shape, saved.num_classes)
    shape = [SHOWN, *like.x.shape[1:]]  # of what the model sees
    if system.model.sample is not None and _unconditional(system):
        lines.append(f"x = {call})  # {shape}")
    elif system.model.sample is not None and system.classes is not None:
        labels = f"jax.numpy.arange({SHOWN}) % {system.classes}"
        lines.append(f"cond = jax.nn.one_hot({labels}, {system.classes})")
        lines.append(f"x = {call}, cond)  # {shape}")
    verbs = {"samples": "sample", "reconstructions": "reconstruct", "interpolation": "interpolate"}
    names = finish.pictures(system, saved.shape)
    where = shlex.quote(about.name)
    commands = [f"jaxvae {verb} {where}" for name, verb in verbs.items() if name in names]
    if measure.available(system):
        commands.append(f"jaxvae evaluate {where}")
    python, shell = "\n".join(lines), "\n".join(commands)
    return f"```python\n{python}\n```\n\n```bash\n{shell}\n```\n"


def _rows(about: About) -> list[dict[str, Any]]:
    """Returns the numbers that are single ones."""
    rows = [] if about.evaluation is None else about.evaluation["metrics"]
    return [row for row in rows if not isinstance(row["value"], list)]


def _numbers(system: System, about: About) -> str:
    """Returns the table of its numbers, each with its protocol."""
    rows = _rows(about)
    if not rows and not measure.available(system):
        return "It has no likelihood to evaluate.\n"
    if about.evaluation is None or not rows:
        return "It has not been evaluated: `jaxvae evaluate RUN`, then `jaxvae export RUN` again.\n"
    where = f"{about.evaluation.get('data')}, {about.evaluation.get('split')} split"
    budget = about.evaluation.get("budget")
    lines = [where + (f"; budget {budget}: compares with nothing" if budget else ""), ""]
    lines += ["| metric | value | n | protocol |", "| --- | ---: | ---: | --- |"]
    for row in rows:
        error = "" if row.get("error") is None else f" ± {row['error']:.2g}"
        value = f"{row['value']:,.4f}" if isinstance(row["value"], float) else str(row["value"])
        n = "" if row.get("n") is None else f"{row['n']:,}"
        protocol = row["protocol"].replace("|", "\\|")
        lines.append(f"| {row['metric']} | {value}{error} | {n} | {protocol} |")
    return "\n".join(lines) + "\n"


def _made(about: About) -> str:
    """Returns how it was made, and what it cannot do."""
    versions = about.page["versions"]
    made = ", ".join(
        f"{name} {versions[name]}"
        for name in ("jaxvae", "commit", "jax", "flax", "python")
        if name in versions
    )
    statistics = about.page.get("statistics", {}).get("about")
    extra = f" Its batch statistics: {statistics}." if statistics else ""
    return (
        f"Made by\n\n    {about.page['command']}\n\n"
        f"with {made or 'an unknown version'}.{extra} Weights are in `model.safetensors`, settings in "
        "`config.json`; nothing in this folder is run when it is loaded. Training cannot be resumed "
        "from it: the optimiser's state is not here.\n"
    )
