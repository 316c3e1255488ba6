"""The functions of the package, over real servers and a real cluster: what commands do, they do."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import pytest
from distributed import Client

import shardtools as st
from shardtools.errors import JobError, OutputExistsError, SampleError
from shardtools.jobs.extraction.spill import Spill
from tests.cli.command import run
from tests.dask_cluster import dask_cluster
from tests.datasets import write_dataset
from tests.recording_server import recording_server
from tests.servers import NginxServer


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is worked in, with ``texts/`` of 20 samples."""
    monkeypatch.chdir(tmp_path)
    for i in range(20):
        path = tmp_path / "texts" / ("odd" if i % 2 else "even") / f"{i:02d}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text {i}")
    return tmp_path


def shout(record: Mapping[str, bytes], end: str = "") -> dict[str, object]:
    return {**record, "txt": record["txt"].decode().upper() + end}


def count(key: object, records: Iterator[Mapping[str, bytes]]) -> dict[str, object]:
    return {"key": f"class-{key}", "json": {"n": sum(1 for _ in records)}}


def files(folder: Path, name: str) -> dict[str, bytes]:
    """Return the shards of a dataset."""
    return {path.name: path.read_bytes() for path in sorted(folder.glob(f"{name}-*.tar"))}


def test_a_programs_way_over_a_server_and_a_cluster(folder: Path, nginx: NginxServer) -> None:
    url = nginx.url
    end = "!"
    with dask_cluster(2) as cluster, Client(cluster.address, set_as_default=False) as client:
        made = st.upload("texts", f"{url}all-@auto.tar", class_from_folder=True, shard_count=5)
        assert (made.counts.written, len(made.shards)) == (20, 4)
        mapped = st.map(
            f"{url}all-@000004.tar",
            f"{url}loud-@4.tar",
            lambda record: {**record, "txt": record["txt"].decode().upper() + end},
            cluster=client,
        )
        assert mapped.counts.written == 20
        shuffled = st.shuffle(f"{url}loud-@4.tar", f"{url}mixed-@3.tar", cluster=client)
        assert shuffled.job["seed"] >= 0
        st.sort(f"{url}mixed-@3.tar", f"{url}counts-@1.tar", by="cls:int", reduce=count, cluster=client)
        rows = st.extract(f"{url}mixed-@3.tar", fields=["cls", "txt"], cluster=client)
        assert client.status == "running"
    assert sorted(row["txt"] for row in rows) == sorted(f"TEXT {i}!" for i in range(20))
    assert [record["json"] for record in st.open(f"{url}counts-@1.tar")] == [b'{"n": 10}', b'{"n": 10}']
    assert st.count(f"{url}mixed-@3.tar", "cls").values == {"0": 10, "1": 10}
    assert st.count(f"{url}mixed-@3.tar", "cls", numbers=True).values == {0.0: 10, 1.0: 10}
    assert sum(st.stats(f"{url}mixed-@3.tar").samples) == 20
    assert [shard.made for shard in st.index(f"{url}mixed-@3.tar", check=True).shards] == [False] * 3


def test_commands_and_functions_write_the_same_bytes(folder: Path) -> None:
    assert run("texts", "a-@3.tar", "--class-from-folder", cwd=folder, program="htupload").status == 0
    st.upload("texts", "b-@3.tar", class_from_folder=True)
    (folder / "shout.py").write_text(
        "def process_sample(record, end):\n    return {**record, 'txt': record['txt'].upper() + end.encode()}\n"
    )
    assert run("-p", "shout.py", "-a", "end=!", "a-@3.tar", "ma-@3.tar", cwd=folder).status == 0
    st.map("a-@3.tar", "mb-@3.tar", "shout.py", params={"end": "!"})
    st.map("a-@3.tar", "mc-@3.tar", shout, params={"end": "!"})
    assert run("--seed", "3", "ma-@3.tar", "sa-@2.tar", cwd=folder, program="htshuffle").status == 0
    st.shuffle("ma-@3.tar", "sb-@2.tar", seed=3)
    assert run("--by", "txt", "--reverse", "sa-@2.tar", "ra-@2.tar", cwd=folder, program="htsort").status == 0
    st.sort("sa-@2.tar", "rb-@2.tar", by="txt", reverse=True)
    st.sort("sa-@2.tar", "rc-@2.tar", by=lambda record: record["txt"], reverse=True)
    for first, *others in (("a", "b"), ("ma", "mb", "mc"), ("sa", "sb"), ("ra", "rb", "rc")):
        for other in others:
            assert [*files(folder, first).values()] == [*files(folder, other).values()], other
    assert run("a-@3.tar", "-f", "txt", "-o", "a.csv", cwd=folder, program="htextract").status == 0
    assert st.extract("a-@3.tar", fields="txt", output="b.csv").rows == 20
    assert (folder / "a.csv").read_bytes() == (folder / "b.csv").read_bytes()


def test_rows(folder: Path) -> None:
    st.upload("texts", "a-@3.tar", class_from_folder=True)
    rows = st.extract("a-@3.tar", fields=["cls", "txt"])
    assert len(rows) == 20
    assert rows[-1] == {"key": "odd/19", "cls": 1, "txt": "text 19"}
    assert [row["key"] for row in rows[2:4]] == ["even/04", "even/06"]
    assert list(rows) == rows.to_arrow().to_pylist()
    assert repr(rows) == "Rows(20 of key, cls, txt)"
    assert [row["key"] for row in st.extract("a-@3.tar", limit=2)] == ["even/00", "even/02"]
    sizes = st.extract("a-@3.tar", function=lambda record: len(record["txt"]), where="cls == 1")
    assert {row["value"] for row in sizes} == {6, 7}
    with pytest.raises(IndexError):
        rows[20]
    with pytest.raises(JobError, match="no sample has the field jpg; there are cls, txt"):
        st.extract("a-@3.tar", fields="jpg")


def test_rows_are_not_swept_away_by_another_process(folder: Path) -> None:
    st.upload("texts", "a-@3.tar")
    sweeping = "import shardtools.jobs.extraction.spill as s\nwhile True:\n    s.sweep()\n"
    with subprocess.Popen([sys.executable, "-c", sweeping]) as other:
        try:
            assert all(len(st.extract("a-@3.tar", fields="txt")) == 20 for _ in range(20))
            for _ in range(1000):  # the folder may go between two calls that make it
                with closing(Spill()) as spill:
                    assert Path(spill.path()).is_dir()
        finally:
            other.kill()


def test_data_frame(folder: Path) -> None:
    import pandas

    st.upload("texts", "a-@3.tar")
    frame = st.extract("a-@3.tar", fields="txt").to_pandas()
    assert isinstance(frame, pandas.DataFrame) and list(frame.columns) == ["key", "txt"]


def test_resume_and_what_is_there(folder: Path) -> None:
    st.upload("texts", "a-@3.tar")
    st.map("a-@3.tar", "b-@3.tar", shout)
    with pytest.raises(OutputExistsError, match="use --resume"):
        st.map("a-@3.tar", "b-@3.tar", shout)
    assert [shard.resumed for shard in st.map("a-@3.tar", "b-@3.tar", shout, resume=True).shards] == [True] * 3
    assert st.map("a-@3.tar", "b-@3.tar", shout, params={"end": "?"}, overwrite=True).counts.written == 20


def test_skipping(folder: Path) -> None:
    st.upload("texts", "a-@3.tar")

    def picky(record: Mapping[str, bytes]) -> Mapping[str, object]:
        if record["txt"].endswith(b"7"):
            raise ValueError("an unlucky number")
        return record

    with pytest.raises(SampleError, match=r"\[odd/07\]: ValueError: an unlucky number"):
        st.map("a-@3.tar", "b-@3.tar", picky)
    result = st.map("a-@3.tar", "c-@3.tar", picky, on_error="skip", report="report.json")
    assert not result.is_whole
    assert [entry.key for entry in result.skipped()] == ["odd/07", "odd/17"]
    assert repr(result).endswith("3 shards, 30.7 kB, 2 samples and 0 shards skipped)")
    assert (folder / "report.json").exists()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: st.map("-", "b-@1.tar", shout), "-: standard input and output are for commands"),
        (lambda: st.upload("texts", "-"), "-: standard input and output are for commands"),
        (lambda: st.upload("-", "b-@1.tar"), "-: standard input and output are for commands"),
        (lambda: st.extract("a-@3.tar", output="-"), "-: standard input and output are for commands"),
        (lambda: st.map("a-@3.tar", "b-@3.tar", shout, on_error="explode"), "--on-error explode is not a choice"),  # type: ignore[arg-type]
        (lambda: st.map("a-@3.tar", "b-@3.tar", shout, jobs=0), "--jobs 0 is too small; give 1 or more"),
        (lambda: st.map("a-@3.tar", "b-@3.tar", None), "the function is of type NoneType"),  # type: ignore[arg-type]
        (lambda: st.map("a-@3.tar", "b-@3.tar", shout, jobs="4"), "--jobs '4' is not a whole number"),  # type: ignore[arg-type]
        (lambda: st.map("a-@3.tar", "b-@3.tar", shout, overwrite="no"), "--overwrite 'no' is of type str"),  # type: ignore[arg-type]
        (lambda: st.map("a-@3.tar", "b-@3.tar", shout, limits={}), "--limits {} is of type dict"),  # type: ignore[arg-type]
        (lambda: st.map("a-@3.tar", "b-@3.tar", shout, params=[3]), "params is of type list"),  # type: ignore[arg-type]
        (lambda: st.upload("texts", "b-@3.tar", values=["a=b"]), "values is of type list"),  # type: ignore[arg-type]
        (lambda: st.shuffle("a-@3.tar", "b-@3.tar", seed=1.5), "--seed 1.5 is not a whole number"),  # type: ignore[arg-type]
        (lambda: st.shuffle("a-@3.tar", "b-@3.tar", seed=-1), "--seed -1 is too small"),
        (lambda: st.shuffle("a-@3.tar", "b-@3.tar", memory="a lot"), "--memory a lot: not a valid size"),
        (lambda: st.shuffle("a-@3.tar", "b-@3.tar", seed=1, no_shuffle=True), "--seed and --no-shuffle cannot"),
        (lambda: st.sort("a-@3.tar", "b-@3.tar", merge="middle"), "--merge middle is not a choice"),  # type: ignore[arg-type]
        (lambda: st.sort("a-@3.tar", "b-@3.tar", combine=count), "there is combine_samples without reduce_samples"),
        (lambda: st.sort("a-@3.tar", "b-@3.tar", by=len, script="x.py"), "functions and a script cannot be used"),
        (lambda: st.index("a-@3.tar", check=True, overwrite=True), "--check and --overwrite cannot be used together"),
        (lambda: st.extract("a-@3.tar", raw=True), "a format is for a file"),  # type: ignore[call-overload]
        (lambda: st.extract("a-@3.tar", fields=["txt", "txt"]), "a field is given twice"),
    ],
)
def test_what_makes_no_sense_is_refused(folder: Path, call: Callable[[], object], message: str) -> None:
    st.upload("texts", "a-@3.tar")
    before = sorted(folder.iterdir())
    with pytest.raises(JobError) as raised:
        call()
    assert message in str(raised.value) and "\n" not in str(raised.value)
    assert sorted(folder.iterdir()) == before


def test_an_unknown_keyword(folder: Path) -> None:
    with pytest.raises(TypeError, match=r"shuffle\(\) has no keyword sede; did you mean seed\?"):
        st.shuffle("a-@3.tar", "b-@3.tar", sede=7)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"extract\(\) has no keyword field; did you mean fields\?"):
        st.extract("a-@3.tar", field="txt")  # type: ignore[call-overload]


def test_paths(folder: Path) -> None:
    st.upload(folder / "texts", folder / "a-@3.tar")
    assert st.map([folder / "a-@3.tar"], folder / "b-@3.tar", shout).counts.written == 20
    with pytest.raises(TypeError, match="sources are a path, a URL or a list of such, not of type function"):
        st.map(shout, "a-@3.tar", "b-@3.tar")  # type: ignore[arg-type]


def test_what_was_meant(folder: Path) -> None:
    st.upload("texts", "a-@3.tar")
    for call in (lambda: st.map("a-@4.tar", "b-@4.tar", shout), lambda: st.stats("a-@4.tar")):
        with pytest.raises(st.ShardtoolsError, match=r"did you mean a-@3\.tar\?"):
            call()


def test_a_function_that_forgets_to_return(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    st.upload("texts", "a-@3.tar")
    assert st.map("a-@3.tar", "b-@3.tar", lambda record: None).counts.dropped == 20
    assert "the function returned None for each of the 20 samples" in caplog.text


def test_only_servers_that_are_named_get_the_users_headers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDTOOLS_HTTP_HEADERS", "X-Key: mine")
    with recording_server(folder / "web") as server:
        write_dataset(server.root, 2, 3)
        st.index(f"{server.url}in-@2.tar")
        st.shuffle(f"{server.url}in-@2.tar", "local-@1.tar")
        assert server.values("x-key") == {"mine"}


def test_progress_is_shown_when_asked_for(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    st.upload("texts", "a-@3.tar")
    assert capfd.readouterr() == ("", "")
    st.map("a-@3.tar", "b-@3.tar", shout, progress=True)
    out, err = capfd.readouterr()
    assert out == "" and "100% |" in err and "3/3 shards" in err
    st.upload("texts", "c-@3.tar", progress=True)
    assert "20/20 samples" in capfd.readouterr().err


def test_a_function_of_a_program_runs_in_processes(folder: Path) -> None:
    st.upload("texts", "a-@3.tar")
    (folder / "program.py").write_text(
        "import shardtools as st\n"
        "SUFFIX = '!'\n"
        "def shout(record):\n"
        "    return {**record, 'txt': record['txt'].decode() + SUFFIX}\n"
        "if __name__ == '__main__':\n"
        "    print(st.map('a-@3.tar', 'b-@3.tar', shout, cluster='processes'))\n"
    )
    done = subprocess.run([sys.executable, "program.py"], capture_output=True, text=True, timeout=120, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("JobResult('") and "20 samples, 3 shards" in done.stdout
    assert st.open("b-@3.tar")["odd/01"]["txt"] == b"text 1!"


def test_a_program_that_each_process_would_run_again(folder: Path) -> None:
    st.upload("texts", "a-@3.tar")
    (folder / "program.py").write_text(
        "import shardtools as st\nst.map('a-@3.tar', 'b-@3.tar', lambda record: record, cluster='processes')\n"
    )
    done = subprocess.run([sys.executable, "program.py"], capture_output=True, text=True, timeout=120, cwd=folder)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith('do the work of the program below `if __name__ == "__main__":`')
    assert not list(folder.glob("b-*"))


def test_rows_whose_values_are_of_several_types(folder: Path, recwarn: pytest.WarningsRecorder) -> None:
    st.upload("texts", "a-@3.tar")

    def mixed(record: Mapping[str, bytes]) -> object:
        return {"n": 1 if record["key"] == "odd/19" else "x"}

    with pytest.raises(SampleError, match="a column has values of several types") as raised:
        st.extract("a-@3.tar", function=mixed)
    assert "\n" not in str(raised.value)
    st.extract("a-@3.tar", function=mixed, output="rows.jsonl")
    gc.collect()
    assert [str(warning.message) for warning in recwarn] == []


def test_a_parquet_file_that_is_given_up_says_nothing_more(folder: Path) -> None:
    st.upload("texts", "a-@20.tar")
    (folder / "bad.py").write_text("def extract_sample(record):\n    return {'n': 1 / (record['key'] != 'odd/19')}\n")
    outcome = run("a-@20.tar", "-p", "bad.py", "-o", "rows.parquet", cwd=folder, program="htextract")
    assert "ZeroDivisionError" in outcome.error(1)
    assert not (folder / "rows.parquet").exists()


def test_an_output_whose_name_says_no_format(folder: Path) -> None:
    st.upload("texts", "a-@3.tar")
    with pytest.raises(JobError, match=r"the name rows.xlsx says no format; give --format, or one of \.tsv"):
        st.extract("a-@3.tar", fields="txt", output="rows.xlsx")
    assert st.extract("a-@3.tar", fields="txt", output="rows.xlsx", format="csv").rows == 20


def test_a_function_without_an_identity_is_only_needed_to_resume(folder: Path) -> None:
    st.upload("texts", "a-@3.tar")
    lock = threading.Lock()

    def careful(record: Mapping[str, bytes]) -> Mapping[str, bytes]:
        with lock:
            return record

    assert st.map("a-@3.tar", "b-@3.tar", careful).counts.written == 20
    assert st.sort("a-@3.tar", "c-@3.tar", by=lambda record: careful(record)["txt"]).counts.written == 20
    assert len(st.extract("a-@3.tar", function=careful)) == 20
    with pytest.raises(st.ShardtoolsError, match=r'careful cannot be compared .*version="1"'):
        st.map("a-@3.tar", "b-@3.tar", careful, resume=True)
    with pytest.raises(OutputExistsError):
        st.map("a-@3.tar", "b-@3.tar", careful, resume=True, version="1")
