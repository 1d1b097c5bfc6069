"""What a user did wrong is one line that names it."""

import jax
import numpy as np
import pytest

from jaxvae import errors
from jaxvae.errors import Damaged, UserError


@pytest.mark.parametrize(
    ("value", "bounds", "message"),
    [
        ("1", {}, "gamma must be a number, not '1'."),
        (None, {}, "gamma must be a number, not None."),
        ([1.0, 2.0], {}, "gamma must be a number"),
        (float("nan"), {}, "gamma must be finite, not nan."),
        (np.inf, {"above": 0.0}, "gamma must be finite, not inf."),
        (0.0, {"above": 0.0}, "gamma must be greater than 0, not 0."),
        (-1e-9, {"least": 0.0}, "gamma must be at least 0, not -1e-09."),
        (1.0, {"below": 1.0}, "gamma must be below 1, not 1."),
        (1.5, {"at_most": 1.0}, "gamma must be at most 1, not 1.5."),
    ],
)
def test_a_number_out_of_its_bounds(value, bounds, message):
    with pytest.raises(UserError) as raised:
        errors.check_number("gamma", value, **bounds)
    assert str(raised.value).startswith(message)


def test_numbers_inside_their_bounds_and_traced_ones_pass():
    errors.check_number("gamma", np.float32(0.5), above=0.0, below=1.0)
    errors.check_number("gamma", 1, least=1.0, at_most=1.0)
    seen = []

    def scaled(gamma):
        errors.check_number("gamma", gamma, above=0.0)
        seen.append(errors.concrete(gamma))
        return gamma

    assert jax.eval_shape(scaled, -1.0).shape == ()  # a traced hyper-parameter is not known yet
    assert seen == [False] and errors.concrete(-1.0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (True, "steps must be a whole number, not True."),
        (1.0, "steps must be a whole number, not 1.0."),
        ("3", "steps must be a whole number, not '3'."),
        (1, "steps must be at least 2, not 1."),
    ],
)
def test_a_count_that_is_none(value, message):
    with pytest.raises(UserError) as raised:
        errors.check_count("steps", value, 2)
    assert str(raised.value) == message
    errors.check_count("steps", np.int64(2), 2)


def test_seeds_are_those_that_a_key_tells_apart():
    errors.check_seed("seed", 0)
    errors.check_seed("seed", 2**32 - 1)
    with pytest.raises(UserError, match=r"seed must be below 2\*\*32 = 4294967296, not 4294967296"):
        errors.check_seed("seed", 2**32)
    with pytest.raises(UserError, match="seed must be at least 0, not -1"):
        errors.check_seed("seed", -1)


def test_an_unknown_name_gets_the_nearest_and_all_that_there_are():
    near = errors.unknown("net", "mpl", ("mlp", "conv"))
    assert str(near) == "unknown net 'mpl'. Did you mean 'mlp'? Choose from: conv, mlp."
    far = errors.unknown("net", 7, ("mlp", "conv"))
    assert str(far) == "unknown net 7. Choose from: conv, mlp."


def test_text_of_a_file_is_one_line_that_a_terminal_can_show():
    assert errors.one_line("a\n b\t\x1b[31mc") == "a b [31mc"
    assert errors.one_line("x" * 200) == "x" * 200
    assert errors.one_line("x" * 201) == "x" * 197 + "..."


class Short(Damaged):
    """A kind of damage of its own."""


@pytest.mark.parametrize(
    ("inside", "kind", "message"),
    [
        (KeyError("x\ny"), Damaged, r"KeyError: 'x\ny'"),
        (OSError("no\nend"), Damaged, "OSError: no end"),
        (Damaged("cut\nshort"), Damaged, "cut short"),
        (Short("by 3"), Short, "by 3"),
    ],
)
def test_whatever_a_damaged_file_raises_is_one_line(inside, kind, message):
    with pytest.raises(Damaged) as raised, errors.damage():
        raise inside
    assert type(raised.value) is kind and str(raised.value) == message


def test_a_value_of_another_kind():
    errors.check_kind("seed", 3, int, "a whole number")
    for value, given in ((0.5, "float"), (str, "str"), (None, "NoneType")):
        with pytest.raises(UserError, match=f"seed must be an int, not {given}: a whole number."):
            errors.check_kind("seed", value, int, "a whole number")
