import numpy as np
import official
import pytest
from PIL import Image

from jaxvae import data
from jaxvae.data import images
from jaxvae.errors import UserError


def write(folder, names, size=(6, 5), channels=3, seed=0):
    """Writes PNG files and returns what is in them, in the order of `names`."""
    rng = np.random.default_rng(seed)
    pictures = [rng.integers(0, 256, (*size, channels), np.uint8) for _ in names]
    for name, x in zip(names, pictures, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x[..., 0] if channels == 1 else x).save(folder / name)
    return np.stack(pictures)


def refused(function, *args, **options):
    with pytest.raises(UserError) as raised:
        function(*args, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("channels", [1, 3])
def test_folder_of_images_in_the_order_of_names(tmp_path, channels):
    x = write(tmp_path, ["b.png", "a.png", "sub/c.png"], channels=channels)
    source = data.folder(tmp_path, by_class=False)
    np.testing.assert_array_equal(source.arrays["x"], x[[1, 0, 2]])
    assert (
        source.shape == (6, 5, channels)
        and source.num_classes is None
        and source.origin == str(tmp_path)
    )
    assert data.folder(tmp_path, by_class=False, channels=4 - channels).shape == (
        6,
        5,
        4 - channels,
    )


def test_folders_by_class_split_and_streamed(tmp_path, monkeypatch):
    names = [f"{c}/{i}.png" for c in ("cat", "dog") for i in range(10)]
    x = write(tmp_path, names)
    source = data.folder(tmp_path)
    assert source.num_classes == 2
    np.testing.assert_array_equal(source.arrays["label"], [0] * 10 + [1] * 10)
    parts = [data.folder(tmp_path, split=s) for s in ("all[:70%]", "all[70%:]")]
    seen = np.concatenate([p.arrays["x"] for p in parts])
    assert sorted(map(bytes, seen)) == sorted(map(bytes, x)) and set(parts[0].arrays["label"]) == {
        0,
        1,
    }
    monkeypatch.setattr(images, "RESIDENT_BYTES", 10)
    streamed = data.folder(tmp_path, split="all[:70%]")
    assert streamed.arrays is None
    for key, value in streamed.read([5, 0, 5]).items():
        np.testing.assert_array_equal(value, parts[0].read([5, 0, 5])[key])


def test_crop_then_resize_are_explicit(tmp_path):
    rng = np.random.default_rng(0)
    sizes = [(8, 10), (9, 12), (20, 8)]
    for i, size in enumerate(sizes):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(tmp_path / f"{i}.png")
    message = refused(data.folder, tmp_path)
    assert (
        "images of 3 sizes (1 of 8x10, 1 of 9x12, 1 of 20x8" in message
        and "size= (resize) or crop=" in message
    )
    assert data.folder(tmp_path, crop=8).shape == (8, 8, 3)
    assert data.folder(tmp_path, crop=(8, 6), size=4).shape == (4, 4, 3)
    assert data.folder(tmp_path, size=(5, 7)).shape == (5, 7, 3)
    with Image.open(tmp_path / "0.png") as image:
        want = np.asarray(image.crop((1, 0, 9, 8)).resize((4, 4), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(data.folder(tmp_path, crop=8, size=4).arrays["x"][0], want)
    assert "3 of 3 images" in refused(data.folder, tmp_path, crop=30)


def test_a_class_without_images_is_refused(tmp_path):
    write(tmp_path, ["a/1.png", "b/1.png", "c/deep/1.png"])
    for name in ("d", ".hidden"):
        (tmp_path / name).mkdir()
    assert "1 class folders without images: d. Fill" in refused(data.folder, tmp_path)
    assert data.folder(tmp_path, by_class=False).size == 3
    (tmp_path / "d").rmdir()
    assert data.folder(tmp_path).num_classes == 3


def test_unreadable_images_are_counted_and_named(tmp_path):
    write(tmp_path, [f"{i}.png" for i in range(6)])
    (tmp_path / "7.jpg").write_bytes(b"not a picture")
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:60])
    message = refused(data.folder, tmp_path)
    assert "2 of 7 images" in message and "2.png, 7.jpg" in message


def test_a_bad_file_of_any_part_is_named_whatever_the_split(tmp_path):
    """The test part is read after training: its bad files must not wait for that."""
    write(tmp_path, [f"{i}.png" for i in range(10)])
    last = np.argsort(np.random.Philox(0).random_raw(10), kind="stable")[-1]
    (tmp_path / f"{last}.png").write_bytes(b"")
    for split in ("all[:80%]", "all[90%:]"):
        assert f"1 of 10 images in {tmp_path} cannot be used: {last}.png" in refused(
            data.folder, tmp_path, split=split
        )
    write(tmp_path, [f"{last}.png"], size=(7, 5))
    assert "images of 2 sizes (9 of 6x5, 1 of 7x5" in refused(
        data.folder, tmp_path, split="all[:80%]"
    )
    write(tmp_path, [f"{last}.png"], channels=1)  # colour wins, in every part
    assert {data.folder(tmp_path, split=s).shape for s in ("all", "all[:80%]", "all[90%:]")} == {
        (6, 5, 3)
    }


def test_sixteen_bits_become_eight_and_thirty_two_are_refused(tmp_path):
    x = np.array([[0, 257 * 7, 65535], [257, 128, 30000]], np.uint16)
    Image.fromarray(x).save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        data.folder(tmp_path).arrays["x"][0, ..., 0], [[0, 7, 255], [1, 0, 117]]
    )
    Image.fromarray(x.astype(np.float32)).save(tmp_path / "b.tiff")
    assert (
        "1 of 2 images" in (message := refused(data.folder, tmp_path))
        and "b.tiff (pixels of type F" in message
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (8,)}, "size must be one number, or (height, width)"),
        ({"channels": 2}, "channels must be 1"),
        ({"size": 0}, "size must be at least 1"),
        ({"crop": (3, -1)}, "crop must be"),
        ({"split": "train"}, "has no split 'train'"),
        ({"by_class": True}, "images beside its class folders, such as a.png"),
    ],
)
def test_folder_options_that_cannot_work(tmp_path, options, message):
    write(tmp_path, ["a.png", "b/c.png"])
    assert message in refused(data.folder, tmp_path, **options)


def test_folders_that_are_none(tmp_path):
    assert "is not a folder" in refused(data.folder, tmp_path / "nowhere")
    assert "holds no images" in refused(data.folder, tmp_path)


def test_load_knows_own_data_by_prefix(tmp_path):
    write(tmp_path / "pictures", [f"{i}.png" for i in range(10)])
    np.savez(tmp_path / "x.npz", x=np.zeros((10, 4, 4, 1), np.uint8))
    folder, npz = f"folder:{tmp_path / 'pictures'}", f"npz:{tmp_path / 'x.npz'}"
    assert data.load(folder, data.splits(folder).train, size=4).shape == (4, 4, 3)
    assert [data.load(npz, split).size for split in data.splits(npz)] == [8, 1, 1]
    assert "size and crop are for folders" in refused(data.load, npz, "all", size=3)
    assert (
        data.known(folder)
        and data.known("tfds:x")
        and not data.known("npz:")
        and not data.known("images")
    )


def test_names_of_the_machine_do_not_leak_into_tests(monkeypatch, tmp_path):
    official.hide_machine(monkeypatch, tmp_path)
    for name in ("mnist", "cifar10", "celeb_a_140"):
        assert f"jaxvae data prepare {name.removesuffix('_140')}" in refused(
            data.load, name, "train"
        )


def test_celeb_a_crops_are_those_of_the_papers():
    image = np.random.default_rng(0).integers(0, 256, (218, 178, 3), np.uint8)
    for side, rows, columns in (
        (128, slice(45, 173), slice(25, 153)),
        (140, slice(39, 179), slice(19, 159)),
    ):
        want = Image.fromarray(image[rows, columns]).resize((64, 64), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(images.celeb_a_crop(image, side), want)
