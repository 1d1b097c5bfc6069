import numpy as np
import pytest
from hypothesis import given

import hostile
from jaxvae import data
from jaxvae.errors import UserError


def refused(function, *args, **options):
    with pytest.raises(UserError) as raised:
        function(*args, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_npz_and_its_keys(tmp_path):
    x, label = np.arange(2 * 10 * 4, dtype=np.uint8).reshape(10, 2, 4), np.arange(10) % 3
    np.savez(tmp_path / "a.npz", x=x, label=label, other=x)
    source = data.npz(tmp_path / "a.npz", split="all[2:]")
    np.testing.assert_array_equal(source.arrays["x"], x[2:, ..., None])
    np.testing.assert_array_equal(source.arrays["label"], label[2:])
    assert source.num_classes == 3
    np.savez(tmp_path / "b.npz", pictures=x.astype(np.float64) / 255)
    assert data.npz(tmp_path / "b.npz").arrays["x"].dtype == np.float32
    assert data.npz(tmp_path / "a.npz", x="other", label="label").size == 10
    assert "no array 'z'" in refused(data.npz, tmp_path / "a.npz", x="z")
    np.savez(tmp_path / "c.npz", u=x, v=x)
    assert "say which array" in refused(data.npz, tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", x=np.array([{"a": 1}], dtype=object))
    assert "without objects" in refused(data.npz, tmp_path / "d.npz")
    (tmp_path / "e.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:100])
    assert "cannot be read as .npz" in refused(data.npz, tmp_path / "e.npz")
    assert "does not exist" in refused(data.npz, tmp_path / "f.npz")
    np.savez(tmp_path / "g.npz", x=x, label=label - 1)
    assert "label runs from -1" in refused(data.npz, tmp_path / "g.npz")


def test_what_is_refused_of_an_npz_names_the_file(tmp_path):
    file = tmp_path / "some.npz"
    np.savez(file, x=np.zeros(5, np.uint8))
    assert refused(data.npz, file).startswith(f"{file}: x must be [n, ...] with at least two axes")
    np.savez(file, x=np.zeros((5, 2), np.uint8), label=np.zeros(5))
    assert refused(data.npz, file).startswith(f"{file}: label must be whole numbers")
    np.savez(file, y=np.zeros((5, 3), np.float32))  # the only array is the examples
    assert data.npz(file).shape == (3,) and data.npz(file).num_classes is None


def test_damaged_npz_files_end_in_one_line(tmp_path):
    rng = np.random.default_rng(0)
    x, label = rng.integers(0, 256, (5, 2, 2, 1), np.uint8), np.arange(5)
    path = tmp_path / "a.npz"
    for save in (np.savez, np.savez_compressed):
        save(path, x=x, label=label)
        intact = path.read_bytes()

        def read(path):
            source = data.npz(path, x="x", label="label")
            return {"x": source.arrays["x"], "label": source.arrays["label"]}

        @hostile.tries
        @given(hostile.damaged(intact))
        def check(content):
            found = hostile.outcome(read, path, content)
            if found is not None:
                hostile.same(found, {"x": x, "label": label.astype(np.int32)})

        check()


def test_npz_files_that_are_none_end_in_one_line(tmp_path):
    path = tmp_path / "a.npz"
    x = np.zeros((5, 2), np.uint8)
    for arrays, message in (
        ({"x": np.array(["text"] * 5)}, "x.npy holds <U4, not numbers"),
        ({"x": np.zeros(5, "i4,f4")}, "not numbers"),
        ({"x": np.float32(3)}, "holds one number as 'x'"),
        ({"x": x, "label": 3}, "holds 1 labels and 5 examples"),
        ({"x": x, "label": np.array(["a"] * 5)}, "label.npy holds <U1, not numbers"),
        ({"a\n": x, "b": x}, "say which array has the examples"),
    ):
        np.savez(path, **arrays)
        assert message in refused(data.npz, path)
    assert "cannot be read: Is a directory" in refused(data.npz, tmp_path)
    np.savez_compressed(path, x=np.zeros(2**26, np.uint8))
    assert "bytes of arrays, over 512 times its size: do not compress it" in refused(data.npz, path)


def test_black_and_white_sprites_may_be_compressed(tmp_path):
    """Deflate makes them 365 times smaller, and dSprites 115 times."""
    x = np.zeros((8000, 64, 64), np.uint8)
    for i, (top, left, height) in enumerate(np.random.default_rng(0).integers(0, 40, (len(x), 3))):
        x[i, top : top + height, left : left + 9] = 1
    np.savez_compressed(tmp_path / "a.npz", x=x)
    assert x.nbytes > 300 * (tmp_path / "a.npz").stat().st_size
    np.testing.assert_array_equal(data.npz(tmp_path / "a.npz").arrays["x"][..., 0], x)


def test_parts_of_an_npz_have_the_classes_of_the_whole(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((10, 2, 2, 1), np.uint8), label=np.arange(10))
    assert [
        data.npz(tmp_path / "a.npz", split=s).num_classes for s in ("all[:80%]", "all[80%:]", "all")
    ] == [10, 10, 10]
    np.savez(tmp_path / "b.npz", x=np.zeros((10, 2, 2, 1), np.uint8), label=np.arange(8))
    assert "holds 8 labels and 10 examples" in refused(
        data.npz, tmp_path / "b.npz", split="all[:50%]"
    )
    np.savez(
        tmp_path / "c.npz", x=np.zeros((10, 2, 2, 1), np.uint8), label=np.append(np.arange(9), -1)
    )
    assert "label runs from -1" in refused(data.npz, tmp_path / "c.npz", split="all[:50%]")


def test_iterators_in_memory_and_on_disk(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (9, 3, 3, 1), np.uint8)
    kinds = {
        "plain": iter(x),
        "pairs": ((v, i % 2) for i, v in enumerate(x)),
        "dicts": ({"x": v, "label": i % 2} for i, v in enumerate(x)),
    }
    for kind, examples in kinds.items():
        source = data.from_iterator(examples)
        np.testing.assert_array_equal(source.arrays["x"], x)
        assert source.num_classes == (None if kind == "plain" else 2)
    spooled = data.from_iterator(
        ((v, i % 2) for i, v in enumerate(x)), spool=tmp_path / "x.bin", num_classes=3
    )
    assert spooled.arrays is None and spooled.num_classes == 3 and spooled.size == 9
    np.testing.assert_array_equal(spooled.read([8, 1])["x"], x[[8, 1]])
    np.testing.assert_array_equal(spooled.read([8, 1])["label"], [0, 1])


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "yields no example"),
        ([np.zeros(3), np.zeros(4)], "example 1 has shape (4,)"),
        ([np.zeros(3), (np.zeros(3), 1)], "example 1 has a label"),
        ([{"y": 1}], "yields y: let it yield x"),
        ([(1, 2, 3)], "yields 3 values"),
        ([(np.zeros(3), 0.7)], "label must be a whole number, not 0.7"),
        ([{"x": np.zeros((2, 3)), "label": np.zeros(2, int)}], "single examples, not batches"),
        ([[np.zeros((2, 2)), 1]], "an example is no array, as its parts have different shapes"),
        (
            lambda: iter([]),
            "examples must be an iterable, such as a list or a generator, not a func",
        ),
        ([np.zeros(300)] * 20, "pass spool=FILE"),
    ],
)
def test_iterators_that_are_refused(examples, message):
    assert message in refused(data.from_iterator, examples, most_bytes=10_000)


def test_a_spool_that_cannot_be_written(tmp_path):
    assert "cannot write" in refused(
        data.from_iterator, [np.zeros(3)], spool=tmp_path / "nowhere" / "x"
    )
