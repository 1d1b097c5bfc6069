"""How options are written down: as the words of a command, as config.json, and back."""

import dataclasses
import itertools
import math
import shlex
import types
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from jaxvae.errors import UserError, one_line, unknown
from jaxvae.presets import PRESETS
from jaxvae.presets.config import OF_NET, PLACES, Options, Preset

AXES, NUMBERS = 8, 2**26  # of one example, at most


class Saved(NamedTuple):
    """What a run's config.json says of it."""

    preset: Preset
    config: Options
    shape: tuple[int, ...]  # of one example
    num_classes: int | None  # of the data, where they have labels


def name_of(config: Options) -> str:
    """Returns the name of the preset whose options these are."""
    return PRESETS.name_of(type(config))


def command(config: Options) -> str:
    """Returns the words after `jaxvae` that give `config`: what differs from the defaults."""
    words = ["train", name_of(config)]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if _is_default(config, field):
            continue
        option = field.name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{option}", *map(str, values)]
    return shlex.join(words)


def made_by(config: Options) -> str:
    """Returns the command that makes a run of these options, in any folder."""
    aside = {
        "workdir": Path("RUN"),
        "progress": True,
        "tensorboard": False,
    }  # they change no number
    return f"jaxvae {command(dataclasses.replace(config, **aside))}"


def _is_default(config: Options, field: dataclasses.Field) -> bool:
    """Returns whether an option has the value that it would have if it were not given."""
    if field.default is dataclasses.MISSING:
        return False
    without = dataclasses.replace(config, **{field.name: field.default})
    return getattr(without, field.name) == getattr(config, field.name)


def builds(name: str, data: str, shape: tuple[int, ...], num_classes: int | None) -> bool:
    """Returns whether a preset takes data of this shape with no option but their name."""
    preset = PRESETS[name]
    config = preset.options(workdir=Path(data), data=data)
    try:
        config.check()
        preset.build(config, shape, num_classes)
    except UserError:
        return False
    return True


def as_dict(config: Options, shape: tuple[int, ...], num_classes: int | None) -> dict[str, Any]:
    """Returns what `config.json` records: the preset, every field, and the shape of the data."""
    fields = dataclasses.asdict(config)
    for name in PLACES:
        fields.pop(name)
    return {"preset": name_of(config), **fields, "shape": list(shape), "num_classes": num_classes}


def defaults(config: Options) -> dict[str, Any]:
    """Returns the default of every option that has one, for runs of a version that lacked it."""
    return {
        field.name: field.default
        for field in dataclasses.fields(config)
        if field.default is not dataclasses.MISSING and field.name not in PLACES
    }


def renewed(saved: dict[str, Any]) -> dict[str, Any]:
    """Returns a recorded config with the options of an older version as they are called now."""
    if "dtype" not in saved:
        return saved
    fields = {name: value for name, value in saved.items() if name != "dtype"}
    old = saved["dtype"] if saved["dtype"] == "bfloat16" else saved.get("precision", "highest")
    return {**fields, "precision": "float32" if old == "highest" else old}


def _choices(hint: Any) -> tuple[Any, ...]:
    """Returns the values that an option of this type may have, where they are named one by one."""
    if get_origin(hint) is Annotated:
        return _choices(get_args(hint)[0])
    if hint is type(None):
        return (None,)
    if get_origin(hint) is Literal:
        return get_args(hint)
    parts = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else ()
    found = [_choices(part) for part in parts]
    return tuple(itertools.chain(*found)) if all(found) else ()


def _is(value: Any, hint: Any) -> bool:
    """Returns whether a value is of the type of an option; a whole number is a float, too."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind is Annotated:
        return _is(value, parts[0])
    if kind is Literal:
        return value in parts
    if kind in (Union, types.UnionType):
        return any(_is(value, part) for part in parts)
    if kind is tuple:
        if not isinstance(value, tuple):
            return False
        each = parts[:1] * len(value) if parts[-1] is ... else parts
        return len(each) == len(value) and all(map(_is, value, each))
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, (int, float))
    return isinstance(value, hint)


def from_dict(saved: dict[str, Any], workdir: Path = Path()) -> Saved:
    """Returns what `as_dict` recorded, as the options of a run in `workdir`.

    Raises:
        UserError: for a run that no preset made, or that another version of jaxvae made.
    """
    fields = {key: value for key, value in renewed(saved).items() if key not in PLACES}
    name = fields.pop("preset", None)
    if name is None:
        raise UserError(
            "this run was made by fit, not by a preset: pass its model and an example batch: "
            "load(folder, model=..., example=Batch(x))."
        )
    if not isinstance(name, str) or name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    shape, num_classes = fields.pop("shape", None), fields.pop("num_classes", None)
    is_shape = isinstance(shape, list) and all(type(n) is int and n > 0 for n in shape)
    is_shape = is_shape and len(shape) <= AXES and math.prod(shape) <= NUMBERS
    if not is_shape or not (num_classes is None or isinstance(num_classes, int)):
        raise UserError(
            f"{workdir / 'config.json'} is damaged: the shape of the data is "
            f"{one_line(repr(shape))}, the number of classes {one_line(repr(num_classes))}."
        )
    preset = PRESETS[name]
    unheard = sorted(set(fields) - {field.name for field in dataclasses.fields(preset.options)})
    if unheard:
        raise UserError(
            f"this run has settings that this version does not know: {', '.join(unheard)}."
        )
    values: dict[str, Any]
    values = {n: tuple(value) if isinstance(value, list) else value for n, value in fields.items()}
    net = values.get("net")
    if isinstance(net, str) and net in OF_NET:  # older runs took options that their net lacks
        heard = OF_NET[net]
        unused = {name for names in OF_NET.values() for name in names} - set(heard)
        values = {name: value for name, value in values.items() if name not in unused}
    for field in dataclasses.fields(preset.options):
        if field.name not in values or _is(values[field.name], field.type):
            continue
        if choices := _choices(field.type):
            raise unknown(field.name.replace("_", "-"), values[field.name], map(str, choices))
        said = one_line(repr(values[field.name]))
        raise UserError(f"{workdir / 'config.json'} is damaged: {field.name} is {said}.")
    try:
        config = preset.options(workdir=workdir, **values)
        config.check()
    except (TypeError, AttributeError) as error:
        raise UserError(f"{workdir / 'config.json'} is damaged ({error}).") from None
    return Saved(preset, config, tuple(shape), num_classes)
