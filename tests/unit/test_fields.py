"""Values and bytes: round trips, the same bytes every time, what is refused, and webdataset reading and being read."""

import gzip
import io
import json
import pickle
import subprocess
import sys
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from webdataset.autodecode import Decoder, basichandlers, imagehandler
from webdataset.writer import TarWriter

from shardtools.errors import FieldError
from shardtools.limits import Limits
from shardtools.shards.fields import decode, encode
from shardtools.storage import StorageOptions, using
from tests.arrays import same

NUMBERS = ("cls", "cls2", "class", "index", "inx", "count", "id")
TEXTS = ("txt", "text", "transcript")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
json_documents = json_values.filter(lambda value: not isinstance(value, str))
arrays = npst.arrays(
    npst.scalar_dtypes() | npst.unicode_string_dtypes() | npst.byte_string_dtypes(),
    npst.array_shapes(min_dims=0, max_dims=4, min_side=0),
)
array_names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(
    lambda name: not name.endswith(".npy")
)


@given(st.sampled_from(TEXTS), st.text(st.characters(codec="utf-8")))
def test_text_comes_back(extension: str, value: str) -> None:
    assert decode(f"a.{extension}", encode(f"a.{extension}", value)) == value


@given(st.sampled_from(NUMBERS), st.integers())
def test_numbers_come_back(extension: str, value: int) -> None:
    assert decode(extension, encode(extension, value)) == value


@given(json_documents)
def test_json_comes_back(value: object) -> None:
    assert decode("json", encode("json", value)) == value
    assert decode("json.gz", encode("json.gz", value)) == value


@given(st.lists(json_values))
def test_jsonl_comes_back(value: list[object]) -> None:
    data = encode("jsonl", value)
    assert decode("jsonl", data) == value
    assert data.count(b"\n") == len(value)


@given(arrays)
def test_npy_comes_back(value: np.ndarray) -> None:
    assert same(value, decode("npy", encode("npy", value)))


@given(st.dictionaries(array_names, arrays, max_size=3))
def test_npz_comes_back_and_does_not_depend_on_the_clock(value: dict[str, np.ndarray]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a name twice, say
        data = encode("npz", value)
    found = decode("npz", data)
    assert isinstance(found, dict)
    assert list(found) == list(value)
    assert all(same(value[name], found[name]) for name in value)
    assert {entry.date_time for entry in zipfile.ZipFile(io.BytesIO(data)).infolist()} <= {(1980, 1, 1, 0, 0, 0)}


@pytest.mark.parametrize(
    "value", [b"\x00raw", bytearray(b"\x00raw"), memoryview(b"\x00raw"), memoryview(b"r.a.w.\0")[::2]]
)
@pytest.mark.parametrize("field", ["png", "json", "cls", "any.thing", "noextension", "json.gz", ""])
def test_bytes_pass(field: str, value: bytes) -> None:
    data = encode(field, value)
    assert type(data) is bytes
    assert data == bytes(value)


@pytest.mark.parametrize("field", ["bin", "", "tar.gz", "gz", "pkl", "pickle", "pyd", "pth"])
def test_what_is_not_known_stays_bytes(field: str) -> None:
    data = pickle.dumps({"not": "loaded"})
    assert decode(field, data) is data


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("json", {"b": [1, 2.5, None], "a": "é", "n": np.float32(1.5), "m": np.int64(3), "t": np.bool_(True)}),
        ("npz", {"b": np.arange(3), "a": np.zeros((2, 2))}),
        ("npy", np.asfortranarray(np.arange(6).reshape(2, 3))),
        ("png", np.arange(12, dtype=np.uint8).reshape(3, 4)),
        ("jpg", np.zeros((9, 9, 3), np.uint8)),
        ("webp", np.zeros((9, 9, 3), np.uint8)),
        ("tif", np.zeros((9, 9, 3), np.uint8)),
        ("txt.gz", "text"),
    ],
)
def test_the_bytes_are_the_same_in_another_process_at_another_time(field: str, value: object) -> None:
    program = (
        "import pickle, sys, time; from shardtools.shards.fields import encode; time.time = lambda: 2e9; "
        "field, value = pickle.load(sys.stdin.buffer); sys.stdout.buffer.write(encode(field, value))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=pickle.dumps((field, value)), capture_output=True, check=True
    )
    assert done.stdout == encode(field, value)


def test_json_keeps_the_order_and_numpy_scalars() -> None:
    assert encode("json", {"b": np.float32(0.5), "a": np.int64(3)}) == b'{"b": 0.5, "a": 3}'


REFUSED = [
    ("cls", "7", r"a str cannot be written as \.cls; give an int, or bytes"),
    ("cls", True, r"True and False are not numbers of classes; give an int"),
    ("cls", np.True_, r"give an int"),
    ("cls", 3.0, r"a float cannot be written as \.cls"),
    ("cls", np.float32(3), r"float32"),
    ("cls", None, r"a NoneType cannot be written as \.cls"),
    ("txt", 7, r"an int cannot be written as \.txt; give a str, or bytes"),
    ("txt", "\ud800", r"surrogates not allowed"),
    ("json", float("nan"), r"Out of range float"),
    ("json", {"a": np.float32("inf")}, r"Out of range float"),
    ("json", {"a": np.zeros(2)}, r"it holds a ndarray of float64, shape \(2,\); give what json\.dumps takes"),
    ("json", {"a": {1}}, r"it holds a set"),
    ("json", '{"a": 1}', r"if it is JSON already, give text\.encode\(\)"),
    ("jsonl", {"a": 1}, r"a dict cannot be written as \.jsonl; give a list"),
    ("npy", [1, 2], r"a list cannot be written as \.npy; give a numpy array"),
    ("npy", np.array([{}]), r"only pickle could write"),
    ("npy", np.ma.array([1, 2], mask=[0, 1]), r"it has a mask, which would be lost"),
    ("npz", np.zeros(3), r"of float64, shape \(3,\), cannot be written as \.npz; give a dict"),
    ("npz", {"a": [1]}, r"give a dict of numpy arrays"),
    ("npz", {1: np.zeros(3)}, r"1 cannot be the name of an array"),
    ("npz", {"a": np.array([{}])}, r"only pickle could write"),
    (
        "png",
        np.zeros((3, 4)),
        r"float64, shape \(3, 4\), cannot be written as \.png: not uint8; give a uint8 array HxW",
    ),
    ("png", np.zeros((3, 4), bool), r"not uint8"),
    ("png", np.zeros((3, 4, 3), np.uint16), r"not uint8"),
    ("png", np.zeros((3, 4, 2), np.uint8), r"not the shape of an image"),
    ("png", np.zeros((0, 4), np.uint8), r"not the shape of an image"),
    ("png", np.zeros(4, np.uint8), r"not the shape of an image"),
    ("png", "cat.png", r"a str cannot be written as \.png; give a uint8 array HxW or HxWx3 or HxWx4, a PIL image"),
    (
        "jpg",
        np.zeros((3, 4, 4), np.uint8),
        r"JPEG holds L, RGB, CMYK, not RGBA; give a uint8 array HxW or HxWx3, a",
    ),
    ("jpg", np.zeros((3, 4), np.uint16), r"JPEG holds L, RGB, CMYK, not I;16"),
    ("webp", np.zeros((3, 4), np.uint8), r"WEBP holds RGB, RGBA, not L"),
    ("ppm", np.zeros((3, 4, 4), np.uint8), r"not RGBA"),
    ("pkl", {"a": 1}, r"shardtools has no encoder for \.pkl; give bytes"),
    ("noextension", "text", r"no encoder for \.noextension"),
    ("tar.gz", "text", r"no encoder for \.gz"),
    ("json.gz", {1}, r"a set cannot be written as \.gz"),
]


@pytest.mark.parametrize(("field", "value", "message"), REFUSED)
def test_a_value_that_does_not_fit_is_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(FieldError, match=message) as caught:
        encode(field, value, url="http://me:pw@host/a.tar", key="k/1")
    assert isinstance(caught.value, TypeError)
    assert str(caught.value).startswith(f"http://host/a.tar [k/1.{field}]: ")
    assert "\n" not in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def of_objects() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([{}]), allow_pickle=True)
    return stream.getvalue()


def zip_of_objects() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.array([{}]))
    return stream.getvalue()


ARCHIVE = encode("npz", {"a": np.arange(100)})
ARRAY = encode("npy", np.arange(100))
PICTURE = encode("png", np.random.default_rng(0).integers(0, 255, (30, 30), dtype=np.uint8))

BAD = [
    ("cls", b"", r"not a decimal number: b''"),
    ("cls", b"1_000", r"not a decimal number"),
    ("cls", b"3.0", r"not a decimal number"),
    ("cls", b"9" * 5000, r"digits"),
    ("txt", b"\xff", r"utf-8"),
    ("json", b"{", r"the bytes are not \.json: Expecting"),
    ("json", b"[" * 100_000, r"recursion"),
    ("jsonl", b"1\n{\n", r"Expecting"),
    ("npy", b"", r"the bytes are not \.npy"),
    ("npy", ARRAY[:-1], r"the bytes are not \.npy"),
    ("npy", ARRAY + b"more", r"4 bytes follow the array"),
    ("npy", of_objects(), r"only pickle"),
    ("npz", b"", r"not a zip file"),
    ("npz", ARRAY, r"not a zip file"),
    ("npz", ARCHIVE[:-30], r"the bytes are not \.npz"),
    ("npz", zip_of_objects(), r"only pickle"),
    ("png", b"", r"not an image: it begins with b''"),
    ("jpg", b"<html>not found</html>", r"not an image: it begins with b'<html>not fo'"),
    ("png", PICTURE[:-200], r"the bytes are not \.png"),
    ("png", PICTURE[:60] + b"\xff" * 20 + PICTURE[80:], r"the bytes are not \.png"),
    ("txt.gz", b"text", r"gzip"),
]


@pytest.mark.parametrize(("field", "data", "message"), BAD)
def test_bytes_that_are_not_what_the_extension_says(field: str, data: bytes, message: str) -> None:
    with pytest.raises(FieldError, match=message) as caught:
        decode(f"x.{field}", data, url="a.tar", key="k")
    assert str(caught.value).startswith(f"a.tar [k.x.{field}]: the bytes are not .")
    assert caught.value.__cause__ is not None


@given(st.sampled_from(["npy", "npz", "png", "jpg", "webp", "tif", "json", "jsonl", "cls", "txt", "txt.gz"]), st.data())
def test_damage_is_a_field_error_or_a_value(field: str, data: st.DataObject) -> None:
    whole = {
        "npy": ARRAY,
        "npz": encode("npz", {"a": np.arange(9)}),
        "png": PICTURE,
        "txt.gz": encode("txt.gz", "text"),
    }
    good = whole.get(field) or data.draw(st.binary(max_size=200))
    cut = data.draw(st.integers(0, len(good)))
    damaged = good[:cut] + data.draw(st.binary(max_size=8)) + good[cut + data.draw(st.integers(0, 8)) :]
    try:
        decode(field, damaged)
    except FieldError as error:
        assert field in str(error)


def test_importing_stays_cheap() -> None:
    program = "import sys, shardtools.shards.fields; print([m for m in ('numpy', 'PIL') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# webdataset

SAMPLE = {
    "txt": "héllo",
    "a.text": "two",
    "cls": 7,
    "id": -3,
    "index": np.int64(12),
    "json": {"b": [1, 2.5, None, True], "a": "é", "": {}},
    "npy": np.arange(6, dtype=np.float32).reshape(2, 3),
    "npz": {"a": np.arange(3), "b": np.zeros((2, 0), np.uint8)},
    "seg.png": np.arange(12, dtype=np.uint8).reshape(3, 4),
    "rgb.png": np.arange(36, dtype=np.uint8).reshape(3, 4, 3),
    "ppm": np.arange(36, dtype=np.uint8).reshape(3, 4, 3),
    "pgm": np.arange(12, dtype=np.uint8).reshape(3, 4),
    "meta.json.gz": [1, 2],
}


def equal(a: object, b: object) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return isinstance(a, np.ndarray) and same(a, b)
    return a == b


def test_webdataset_decodes_what_we_encode() -> None:
    grey = Decoder([imagehandler("l8"), basichandlers])
    colour = Decoder([imagehandler("rgb8"), basichandlers])
    for field, value in SAMPLE.items():
        decoder = colour if isinstance(value, np.ndarray) and value.shape[2:] == (3,) else grey
        found = decoder.decode({field: encode(field, value)})[field]
        assert equal(value, found), field


def test_we_decode_what_webdataset_encodes() -> None:
    stream = io.BytesIO()
    more = {"jpg": np.full((8, 8, 3), 77, np.uint8), "class": 5, "count": 6, "tif": SAMPLE["seg.png"]}
    values = {**SAMPLE, **more}
    del values["pgm"]  # which webdataset offers, but asks Pillow for by a name that Pillow does not know
    with TarWriter(stream, mtime=0) as writer:
        writer.write({"__key__": "k", **values})
    stream.seek(0)
    with tarfile.open(fileobj=stream) as archive:
        members = {m.name.removeprefix("k."): archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]
    assert members.keys() == values.keys()
    for field, value in values.items():
        assert equal(value, decode(field, members[field])), field


@given(json_documents)
def test_json_bytes_are_those_of_webdataset(value: object) -> None:
    assert encode("json", value) == json.dumps(value).encode()


def test_the_case_of_an_extension_does_not_matter() -> None:
    assert decode("a.CLS", encode("a.Cls", 3)) == 3


# what others claim


def npy_head(descr: str, *shape: int) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def zipped(data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", data)
    return stream.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        npy_head("<f8", 1 << 60),
        npy_head("<f8", 0, 1 << 70),
        npy_head("<U0", 1 << 60),
        npy_head("|V0", 1 << 60),
        npy_head("|V0", 10**30),
        npy_head("<f8", *[2] * 65),
    ],
)
@pytest.mark.timeout(20)
def test_arrays_that_claim_to_be_large(data: bytes) -> None:
    for field, bytes_ in (("npy", data), ("npz", zipped(data)), ("npy.gz", gzip.compress(data))):
        with pytest.raises(FieldError, match="the bytes are not"):
            decode(field, bytes_)


@pytest.mark.parametrize("field", ["txt.gz", "npz"])
def test_what_unpacks_to_more_than_a_value_may_be(field: str) -> None:
    data = gzip.compress(bytes(10_000)) if field == "txt.gz" else encode("npz", {"a": np.zeros(10_000, np.uint8)})
    with using(StorageOptions(limits=Limits(value=9_999))), pytest.raises(FieldError, match="9,999 bytes, which is"):
        decode(field, data)
    decode(field, data)
