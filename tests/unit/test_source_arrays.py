"""Arrays whose first axis is samples, as sources."""

from __future__ import annotations

import gc
import io
import json
import os
import pickle
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from shardtools.errors import ChangedError, CorruptError, FieldError, JobError, NotFoundError
from shardtools.jobs.upload import UploadOptions
from shardtools.shards.fields import decode
from shardtools.shards.npy import read_header
from shardtools.sources import array_file
from shardtools.sources.arrays import ArrayRules, ArraySource, open_array
from tests.datasets import upload_source
from tests.servers import NginxServer

IMAGES_AND_LABELS = ArrayRules((("png", "images"), ("cls", "labels")))


def records(source: ArraySource, rows: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """Read samples as a task does, from a part that was sent to it."""
    part = source.part(np.arange(len(source)) if rows is None else np.array(rows, np.int64))
    part = pickle.loads(pickle.dumps(part))
    try:
        found = [part.record(row) for row in range(len(part))]
        assert [record["key"] for record in found] == [part.key(row) for row in range(len(part))]
        assert all(type(data) is bytes for record in found for name, data in record.items() if name != "key")
    finally:
        part.close()
    return found


def save(path: Path, array: Any) -> str:
    np.save(path, array)
    return str(path)


def savez(path: Path, packed: bool = False, **arrays: Any) -> str:
    (np.savez_compressed if packed else np.savez)(path, **arrays)
    return str(path)


def same(array: Any, wanted: Any) -> bool:
    return array.dtype == wanted.dtype and array.shape == wanted.shape and array.tobytes() == wanted.tobytes()


def images(count: int = 6) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (count, 5, 4, 3), np.uint8)


@pytest.fixture(autouse=True)
def nothing_stays_open() -> Iterator[None]:
    yield
    array_file._open_files.clear()


@pytest.mark.parametrize("packed", [False, True])
def test_arrays_of_an_npz(tmp_path: Path, packed: bool) -> None:
    labels = np.arange(6) * 7
    path = savez(tmp_path / "a.npz", packed, images=images(), labels=labels, other=np.zeros(3))
    source = open_array(path, IMAGES_AND_LABELS)
    assert len(source) == 6 and source.key(5) == "000000005" and source.random_access
    for rows in (range(6), [5, 0, 0], []):
        found = records(source, list(rows))
        assert [record["key"] for record in found] == [f"{row:09d}" for row in rows]
        for record, row in zip(found, rows, strict=True):
            assert set(record) == {"key", "png", "cls"}
            assert record["cls"] == b"%d" % labels[row]
            assert same(decode("png", record["png"]), images()[row])


@pytest.mark.parametrize("packed", [False, True])
def test_each_array_is_a_field_unless_told_otherwise(tmp_path: Path, packed: bool) -> None:
    arrays = {"x": np.arange(12.0).reshape(3, 4), "y": np.array([1, 2, 3], np.int16), "z": np.zeros((3, 0, 2), "?")}
    found = records(open_array(savez(tmp_path / "a.npz", packed, **arrays)))
    for row, record in enumerate(found):
        assert set(record) == {"key", "x.npy", "y.npy", "z.npy"}
        for name, array in arrays.items():
            assert same(decode("npy", record[f"{name}.npy"]), array[row, ...])


def test_the_array_of_an_npy(tmp_path: Path) -> None:
    array = np.arange(12).reshape(3, 4)
    path = save(tmp_path / "v1.2.npy", array)
    assert [list(record) for record in records(open_array(path))] == [["key", "npy"]] * 3
    found = records(open_array(path, ArrayRules((("a.npy", "v1.2"), ("b.npy.gz", "v1.2")))))
    for row, record in enumerate(found):
        assert same(decode("npy", record["a.npy"]), array[row])
        assert same(decode("npy.gz", record["b.npy.gz"]), array[row])


@pytest.mark.parametrize("ending", ["npy", "npz", "packed.npz"])
@pytest.mark.parametrize("kind", ["<i4", ">i4", "<f2", ">f8", "?", "S5", "U3", ">U3", "M8[s]", "c8", "i2,f4", ">u2"])
@pytest.mark.parametrize("shape", [(4,), (4, 3), (4, 2, 3)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_any_type_and_order(tmp_path: Path, ending: str, kind: str, shape: tuple[int, ...], order: Any) -> None:
    dtype = np.dtype(kind)
    data = np.random.default_rng(1).integers(1, 100, np.prod(shape) * dtype.itemsize, np.uint8).tobytes()
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype) if dtype.kind in "SUM" else None
    if array is None:
        array = np.frombuffer(data, np.uint8).view(dtype).reshape(shape)
    array = np.array(array, order=order)
    path = tmp_path / f"a.{ending}"
    text = save(path, array) if ending == "npy" else savez(path, "packed" in ending, a=array)
    field = "npy" if ending == "npy" else "a.npy"
    found = [decode("npy", record[field]) for record in records(open_array(text))]
    assert all(same(value, array[row, ...]) for row, value in enumerate(found))


@pytest.mark.parametrize("kind", ["<i8", ">i8", "u1", ">u4"])
def test_labels_of_any_type(tmp_path: Path, kind: str) -> None:
    source = open_array(save(tmp_path / "a.npy", np.array([3, 200], kind)), ArrayRules((("cls", "a"), ("json", "a"))))
    assert [(record["cls"], record["json"]) for record in records(source)] == [(b"3", b"3"), (b"200", b"200")]


@pytest.mark.parametrize("kind", ["<u2", ">u2"])
def test_depth_maps(tmp_path: Path, kind: str) -> None:
    array = np.arange(2 * 5 * 4).reshape(2, 5, 4).astype(kind) * 1000
    for row, record in enumerate(records(open_array(save(tmp_path / "a.npy", array), ArrayRules((("png", "a"),))))):
        assert same(decode("png", record["png"]), array[row].astype("=u2"))


def test_images_in_fortran_order(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npy", np.asfortranarray(images()))
    for row, record in enumerate(records(open_array(path, ArrayRules((("png", "a"),))))):
        assert same(decode("png", record["png"]), images()[row])


def test_text_and_bytes(tmp_path: Path) -> None:
    path = savez(tmp_path / "a.npz", text=np.array(["é", "ab"]), raw=np.array([b"x\xff", b"y"]))
    found = records(open_array(path, ArrayRules((("txt", "text"), ("bin", "raw")))))
    assert [(record["txt"], record["bin"]) for record in found] == [("é".encode(), b"x\xff"), (b"ab", b"y")]


def test_names_of_fields_that_are_not_latin(tmp_path: Path) -> None:
    array = np.array([(1, 2.0), (3, 4.0)], [("é", "<i4"), ("中", "<f4")])
    with pytest.warns(UserWarning, match="format 3.0"):
        path = save(tmp_path / "a.npy", array)
        found = records(open_array(path))
        assert all(same(decode("npy", record["npy"]), array[row, ...]) for row, record in enumerate(found))


def test_sizes(tmp_path: Path) -> None:
    path = savez(tmp_path / "a.npz", x=np.zeros((10, 100)), y=np.arange(10))
    assert open_array(path).sizes().tolist() == [512 + 1024 + 512 + 512] * 10
    assert open_array(path, ArrayRules((("cls", "y"),))).sizes().tolist() == [1024] * 10
    assert open_array(save(tmp_path / "b.npy", np.zeros((1, 1)))).sizes().tolist() == [1024]


# files


def test_relative_paths_are_those_of_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "a.npy", np.arange(3))
    monkeypatch.chdir(tmp_path)
    source = open_array("a.npy", ArrayRules((("cls", "a"),)))
    monkeypatch.chdir("/")
    assert source.name == "a.npy"
    assert [record["cls"] for record in records(source)] == [b"0", b"1", b"2"]


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.NPZ"])
def test_arrays_on_a_server(nginx: NginxServer, name: str) -> None:
    data = io.BytesIO()
    if name == "a.npy":
        np.save(data, np.arange(5))
    else:
        np.savez(data, a=np.arange(5))
    (nginx.root / name).write_bytes(data.getvalue())
    source = open_array(nginx.url + name, ArrayRules((("cls", "a"),)))
    assert [record["cls"] for record in records(source)] == [b"0", b"1", b"2", b"3", b"4"]
    part = pickle.dumps(source.part(np.array([3])))
    source.close()
    assert pickle.loads(part).record(0) == {"key": "000000003", "cls": b"3"}
    (nginx.root / name).write_bytes(b"other")
    array_file._open_files.clear()
    with pytest.raises(ChangedError, match="has changed since it was listed"):
        pickle.loads(part).record(0)


def test_another_process_opens_the_file_again(tmp_path: Path) -> None:
    source = open_array(savez(tmp_path / "a.npz", True, a=np.arange(5)), ArrayRules((("cls", "a"),)))
    (tmp_path / "part").write_bytes(pickle.dumps(source.part(np.array([4, 2]))))
    code = f"import pickle; print(pickle.load(open({str(tmp_path / 'part')!r}, 'rb')).record(0))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "{'key': '000000004', 'cls': b'4'}\n"


def test_a_packed_array_is_unpacked_once_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spill = tmp_path / "spill"
    spill.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spill))
    copies = []
    copy = array_file._copy
    monkeypatch.setattr(array_file, "_copy", lambda source, target: (copies.append(1), copy(source, target)))
    array = np.random.default_rng(0).random((1000, 100))
    source = open_array(savez(tmp_path / "a.npz", True, a=array))
    before = len(os.listdir("/proc/self/fd"))
    threads = [threading.Thread(target=records, args=(source,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(records(source)) == 1000 and len(copies) == 1
    assert list(spill.iterdir()) == []
    source.close()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) < before
    assert len(array_file._open_files) == 0


def test_only_a_few_files_stay_open(tmp_path: Path) -> None:
    sources = [
        open_array(save(tmp_path / f"{i}.npy", np.full(2, i)), ArrayRules((("cls", f"{i}"),))) for i in range(10)
    ]
    parts = [source.part(np.arange(2)) for source in sources]
    assert [part.record(0)["cls"] for part in parts] == [b"%d" % i for i in range(10)]
    assert len(array_file._open_files) == 4
    assert [part.record(1)["cls"] for part in parts] == [b"%d" % i for i in range(10)]


def test_no_folder_for_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none"))
    source = open_array(savez(tmp_path / "a.npz", True, a=np.zeros((10, 10))))
    with pytest.raises(NotFoundError, match="none: there is no such file"):
        records(source)


def test_memory_is_bounded(tmp_path: Path) -> None:
    count, width = 2000, 300_000
    big = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint8, (count, width))
    big[:, 0] = 1
    del big
    code = f"""
import numpy as np
from shardtools.sources.arrays import open_array

def peak():  # of this program alone, other than that of getrusage
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))

source = open_array({str(tmp_path / "a.npy")!r})
part = source.part(np.arange({count}))
part.record(0)
before = peak()
assert sum(len(part.record(row)["npy"]) for row in range({count})) > {count * width}
print(peak() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(done.stdout) < 150_000


# bad input


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        open_array(str(tmp_path / "a.npy"))
    with pytest.raises(JobError, match="this is not a file of arrays"):
        open_array(str(tmp_path / "a.txt"))


def test_arrays_that_do_not_go_together(tmp_path: Path) -> None:
    path = savez(tmp_path / "a.npz", x=np.zeros((3, 2)), y=np.zeros(1200), z=np.float64(1), e=np.zeros((0, 3)))
    for names, message in [
        (["x", "y"], "a.npz: the array 'x' has 3 rows, but 'y' has 1,200; each row is a sample"),
        (["x", "z"], "the array 'z' is a single value"),
        (["e"], "the array 'e' has no rows"),
        (["w"], "there is no array 'w'; the arrays are x, y, z, e$"),
    ]:
        with pytest.raises(JobError, match=message):
            open_array(path, ArrayRules(tuple((f"{name}.npy", name) for name in names)))
    with pytest.raises(JobError, match="'x' has 3 rows"):
        open_array(path)


def test_fields_that_make_no_sense(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npy", np.zeros(3))
    for field in ("key", "__a__", "a/b", ""):
        with pytest.raises(JobError, match=r"is not a valid name of a field; .*--as"):
            open_array(path, ArrayRules(((field, "a"),)))
    with pytest.raises(JobError, match="the field npy is given twice"):
        open_array(path, ArrayRules((("npy", "a"), ("npy", "a"))))


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    objects = np.array([{"a": 1}, [2, 3]], object)
    np.save(tmp_path / "a.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "a.npz", ragged=objects, fine=np.arange(2))
    for path in ("a.npy", "a.npz"):
        with pytest.raises(JobError, match=r"holds Python objects, which only pickle could read; save it with"):
            open_array(str(tmp_path / path))
    assert len(records(open_array(str(tmp_path / "a.npz"), ArrayRules((("cls", "fine"),))))) == 2


def test_a_value_that_its_field_does_not_take(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npy", np.zeros((3, 4)))
    for field in ("png", "cls", "txt", "bin"):
        with pytest.raises(FieldError, match=rf"a.npy \[000000000.{field}\]: .* cannot be written"):
            records(open_array(path, ArrayRules(((field, "a"),))))


def test_a_file_that_changes_after_the_listing(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npy", np.arange(3))
    part = pickle.dumps(open_array(path).part(np.arange(3)))
    array_file._open_files.clear()
    save(tmp_path / "a.npy", np.arange(4))
    with pytest.raises(ChangedError, match=r"a.npy: the file has changed since it was listed; run again"):
        pickle.loads(part).record(0)


def npy_bytes(array: Any) -> bytes:
    data = io.BytesIO()
    np.save(data, array)
    return data.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"PK\x03\x04 not an array",
        npy_bytes(np.arange(9))[:-1],
        npy_bytes(np.arange(9))[:50],
        npy_bytes(np.arange(9)).replace(b"'<i8'", b"'?i8'"),
        npy_bytes(np.arange(9)).replace(b"(9,)", b"(-9)"),
        npy_bytes(np.arange(9)).replace(b"'descr'", b"'other'"),
        npy_bytes(np.arange(9)).replace(b"\x93NUMPY\x01", b"\x93NUMPY\x07"),
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100),
        b"\x93NUMPY\x01\x00\x10\x00" + b"[" * 16,
    ],
)
def test_damaged_npy(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(JobError, match=r"a.npy: this is not an .npy file, or it is damaged: "):
        open_array(str(tmp_path / "a.npy"))


def test_damaged_npz(tmp_path: Path) -> None:
    whole = Path(savez(tmp_path / "a.npz", True, a=np.random.default_rng(0).random((100, 100)))).read_bytes()
    path = tmp_path / "b.npz"
    for data in (b"", whole[:-10], whole[:1000], bytes(4) + whole[4:]):
        path.write_bytes(data)
        with pytest.raises(JobError, match=r"b.npz: this is not an .npz file, or it is damaged: "):
            open_array(str(path))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", b"no arrays")
    with pytest.raises(JobError, match=r"there are no arrays in this file"):
        open_array(str(path))
    path.write_bytes(whole[:5000] + bytes(100) + whole[5100:])
    source = open_array(str(path))
    with pytest.raises(CorruptError, match=r"b.npz: this is not an .npz file, or it is damaged: "):
        records(source)


def test_a_header_is_what_numpy_says(tmp_path: Path) -> None:
    for array in (
        np.zeros((2, 3), order="F"),
        np.float32(1),
        np.zeros(0, "i1,O"),
        np.zeros((2,), [("a", "f4", (2, 2))]),
    ):
        data = io.BytesIO()
        np.lib.format.write_array(data, np.asanyarray(array), allow_pickle=True)
        header = read_header(io.BytesIO(data.getvalue()))
        size = int.from_bytes(data.getvalue()[8:10], "little")
        data.seek(8)
        assert (header.shape, header.fortran, header.dtype) == np.lib.format.read_array_header_1_0(data)
        assert header.size == 10 + size


def test_facts_change_with_what_is_read(tmp_path: Path) -> None:
    def facts(rows: Sequence[int] = (0, 1), rules: ArrayRules | None = None) -> object:
        part = open_array(path, rules or ArrayRules()).part(np.array(rows))
        sent = json.dumps(pickle.loads(pickle.dumps(part)).facts())
        assert sent == json.dumps(part.facts())
        return sent

    path = savez(tmp_path / "a.npz", a=np.arange(3), b=np.arange(3))
    seen = [facts(), facts((1, 0)), facts(rules=ArrayRules((("cls", "a"),))), facts(rules=ArrayRules((("cls", "b"),)))]
    assert facts() == seen[0]
    savez(tmp_path / "a.npz", a=np.arange(3), b=np.arange(3), c=np.arange(3))
    seen.append(facts())
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("packed", [False, True])
def test_an_upload_is_the_arrays(tmp_path: Path, packed: bool) -> None:
    path = savez(tmp_path / "a.npz", packed, images=images(20), labels=np.arange(20))
    spec = f"{tmp_path}/x-@3.tgz"
    upload_source(open_array(path, IMAGES_AND_LABELS), spec, UploadOptions(shuffle=True, seed=1))
    urls = [spec.replace("@3", str(i)) for i in range(3)]
    found = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert len(found) == 20
    for sample in found:
        assert sample["__key__"] == f"{sample['cls']:09d}"
        assert (sample["png"] == images(20)[sample["cls"]]).all()
