"""The grammar of specs, whole: counts, braces, lists, stars, destinations, and what is refused."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardtools import spec as spec_module
from shardtools.errors import SpecError
from shardtools.spec import MAX_SHARDS, Destination, expand
from shardtools.urls import absolute, beside, folder_of, identity, name_of, scheme_of, split_path


class TestCount:
    @pytest.mark.parametrize(
        ("spec", "first", "last", "count"),
        [
            ("/d/v-@1000.tgz", "/d/v-0000.tgz", "/d/v-0999.tgz", 1000),
            ("/d/v-@000012.tar", "/d/v-000000.tar", "/d/v-000011.tar", 12),
            ("/d/@1", "/d/0", "/d/0", 1),
            ("/d/x@02x", "/d/x00x", "/d/x01x", 2),
            ("/a@3/b@2.tar", "/a@3/b0.tar", "/a@3/b1.tar", 2),
            ("/a@3/b.tar", "/a0/b.tar", "/a2/b.tar", 3),
            ("/d/me@site-@2.tar", "/d/me@site-0.tar", "/d/me@site-1.tar", 2),
            ("/d/100%d-@2.tar", "/d/100%d-0.tar", "/d/100%d-1.tar", 2),
            ("/d/%40-@2.tar", "/d/%40-0.tar", "/d/%40-1.tar", 2),
            ("http://me@host/x-@3.tar", "http://me@host/x-0.tar", "http://me@host/x-2.tar", 3),
            ("http://1@2:81/x-@3.tar", "http://1@2:81/x-0.tar", "http://1@2:81/x-2.tar", 3),
            ("http://h/x-@3.tar?v=@9#@8", "http://h/x-0.tar?v=@9#@8", "http://h/x-2.tar?v=@9#@8", 3),
            ("http://[::1]:80/x-@3.tar", "http://[::1]:80/x-0.tar", "http://[::1]:80/x-2.tar", 3),
            ("s3://b/what?-@2.tar", "s3://b/what?-0.tar", "s3://b/what?-1.tar", 2),
            ("gs://b/d#-@2.tar", "gs://b/d#-0.tar", "gs://b/d#-1.tar", 2),
            ("file:///d/x-@2.tar", "/d/x-0.tar", "/d/x-1.tar", 2),
        ],
    )
    def test_numbers(self, spec: str, first: str, last: str, count: int) -> None:
        urls = expand(spec)
        assert (urls[0], urls[-1], len(urls)) == (first, last, count)

    @pytest.mark.parametrize(
        "url",
        [
            "/d/a.tar",
            "/d/a@b.tar",
            "/d/a@.tar",
            "/d/a@autos.tar",
            "/d/a@auto1.tar",
            "/d/a@٣.tar",
            "/d/%2.tar",
            "http://me:p%40w@host:8080/a.tar",
            "http://me@host",
            "http://host/a.tar?token=@3",
            "http://host/a.tar#@3",
            "s3://bucket@2/a.tar",
            "-",
        ],
    )
    def test_none_is_one_shard(self, url: str) -> None:
        assert expand(url) == [url]

    @given(
        count=st.integers(1, 2000),
        zeros=st.integers(0, 8),
        before=st.text("ab-/._%@", max_size=10),
        after=st.text("ab._%", max_size=10),
    )
    def test_the_number_is_the_count_and_its_digits_the_width(
        self, count: int, zeros: int, before: str, after: str
    ) -> None:
        digits = "0" * zeros + str(count)
        head, tail = f"http://host/{before}", f".{after}"
        urls = expand(f"{head}@{digits}{tail}")
        numbers = [url.removeprefix(head).removesuffix(tail) for url in urls]
        assert [int(number) for number in numbers] == list(range(count))
        assert {len(number) for number in numbers} == {len(digits)}

    @pytest.mark.parametrize("zeros", ["@0", "@000"])
    def test_zero(self, zeros: str) -> None:
        with pytest.raises(SpecError, match=rf"^/d/a-{zeros}.tar: the spec names zero shards; give the number"):
            expand(f"/d/a-{zeros}.tar")

    @pytest.mark.parametrize("digits", [str(MAX_SHARDS + 1), "9" * 20, "9" * 10_000])
    def test_too_many(self, digits: str) -> None:
        with pytest.raises(SpecError, match=r"more than 1,000,000 shards; check the number$"):
            expand(f"/d/a-@{digits}.tar")

    def test_auto_is_for_outputs(self) -> None:
        with pytest.raises(SpecError, match="@auto is for outputs only"):
            expand("/d/a-@auto.tar")


class TestBraces:
    @pytest.mark.parametrize(
        ("spec", "names"),
        [
            ("/{000..002}", ["000", "001", "002"]),
            ("/{8..11}", ["8", "9", "10", "11"]),
            ("/{08..11}", ["08", "09", "10", "11"]),
            ("/{3..1}", ["3", "2", "1"]),
            ("/{0..10..5}", ["0", "5", "10"]),
            ("/{a..c}", ["a", "b", "c"]),
            ("/{train,val}", ["train", "val"]),
            ("/{a,b}{1,2}", ["a1", "a2", "b1", "b2"]),
            ("/{a,{b,c}d}", ["a", "bd", "cd"]),
            ("/{a,}x", ["ax", "x"]),
            ("/{a}", ["{a}"]),
            ("/{}", ["{}"]),
            ("/a}", ["a}"]),
            (r"/\{a,b\}", ["{a,b}"]),
            ("/{a,b}@2", ["a0", "a1", "b0", "b1"]),
            ("/@{2,03}", ["0", "1", "00", "01", "02"]),
        ],
    )
    def test_as_in_bash(self, spec: str, names: list[str]) -> None:
        assert expand(spec) == [f"/{name}" for name in names]

    def test_anywhere_in_a_url(self) -> None:
        assert expand("http://{a,b}/x.tar?{1,2}") == [f"http://{host}/x.tar?{query}" for host in "ab" for query in "12"]

    @pytest.mark.parametrize("spec", ["/{a,b", "/{a,b}{", "/{{a}"])
    def test_unbalanced(self, spec: str) -> None:
        with pytest.raises(SpecError, match=re.escape("unbalanced braces; write {000..123} or {train,val}")):
            expand(spec)

    @pytest.mark.parametrize("spec", ["/{0..99999999999}", "/{-9..99999999}", f"/{{0..{'9' * 10_000}}}"])
    def test_too_many(self, spec: str) -> None:
        with pytest.raises(SpecError, match="more than 1,000,000 shards"):
            expand(spec)

    @pytest.mark.parametrize("spec", ["/{0..99}{0..99}", "/{0..9}-@999", "/a-@999::/b::/c", "/a-@500::/b-@501"])
    def test_too_many_together(self, spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(spec_module, "MAX_SHARDS", 1000)
        with pytest.raises(SpecError, match="more than 1,000 shards"):
            expand(spec)
        assert len(expand("/a-@999::/b")) == 1000

    def test_a_sparse_range_is_not_too_many(self) -> None:
        assert expand("/{0..99999999..50000000}") == ["/0", "/50000000"]


class TestLists:
    def test_of_specs(self) -> None:
        expected = ["/a-0", "/a-1", "http://h/b", "/c", "/d"]
        assert expand("/a-@2::http://h/b::/{c,d}") == expected
        assert expand(["/a-@2", "http://h/b::/{c,d}"]) == expected
        assert expand(iter(["/a-@2", "http://h/b", "/{c,d}"])) == expected

    @pytest.mark.parametrize("host", ["[::1]", "[fe80::1%25eth0]:80", "me:pw@[::]", "[2001:db8::1]:8080"])
    def test_ipv6_host_is_no_list(self, host: str) -> None:
        assert expand(f"http://{host}/@2.tar::http://{host}/x.tar::/a[::/b]") == [
            f"http://{host}/0.tar",
            f"http://{host}/1.tar",
            f"http://{host}/x.tar",
            "/a[",
            "/b]",
        ]

    @pytest.mark.parametrize("specs", ["", "::", "/a::", "::/a", "/a::::/b", [""], ["/a", ""]])
    def test_empty_spec(self, specs: str | list[str]) -> None:
        with pytest.raises(SpecError, match=r"^the spec is empty; name at least one shard$"):
            expand(specs)

    def test_nothing(self) -> None:
        with pytest.raises(SpecError, match=r"^the spec names no shards; name at least one shard$"):
            expand([])

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("/d/a.tar", "/d/a.tar"),
            ("/d/a.tar", "/d/../d/./a.tar"),
            ("/d/a.tar", "file:///d/a.tar"),
            ("/d/a.tar", "FILE:///d//a.tar"),
            ("/d/a-0.tar", "/d/a-@2.tar"),
            ("/d/a-1.tar", "/d/a-{0..3}.tar"),
            ("http://host/a", "HTTP://HOST/a"),
            ("http://host/a", "http://host:80/a"),
            ("https://host/a", "https://host:443/a"),
            ("http://host/a", "http://me:secret@host/a"),
            ("http://host/a", "http://host/a#part"),
            ("s3://b/a", "S3://b/a"),
            ("-", "-"),
        ],
    )
    def test_one_shard_twice(self, one: str, other: str) -> None:
        with pytest.raises(SpecError, match="this shard is named twice; name each shard once") as caught:
            expand([one, other])
        assert "secret" not in str(caught.value)
        assert identity(expand(one)[0]) in [identity(url) for url in expand(other)]

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("/d/a.tar", "/d/A.tar"),
            ("/d/a-@2", "/d/a-@02"),
            ("http://host/a", "https://host/a"),
            ("http://host/a", "http://host:443/a"),
            ("http://host/a", "http://host/A"),
            ("http://host/a", "http://host/a?v=2"),
            ("s3://b/a", "s3://B/a"),
            ("s3://b/a", "gs://b/a"),
            ("-", "./-"),
        ],
    )
    def test_two_shards(self, one: str, other: str) -> None:
        assert len(expand([one, other])) == len(expand(one)) + len(expand(other))

    def test_relative_paths_are_one_shard_too(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert expand("a-@2.tar") == [str(tmp_path / "a-0.tar"), str(tmp_path / "a-1.tar")]
        with pytest.raises(SpecError, match="this shard is named twice"):
            expand(["a.tar", str(tmp_path / "a.tar")])

    @pytest.mark.parametrize(
        "url", ["http://host:port/a", "http://host:99999/a", "http://[::1/a", "https://me:pw@[x]/a"]
    )
    def test_no_url(self, url: str) -> None:
        with pytest.raises(SpecError, match="this is not a valid URL; check the host and the port") as caught:
            expand(url)
        assert "pw" not in str(caught.value)


def lister(*urls: str) -> Callable[[str], Sequence[str]]:
    """Return what a storage's list does: the URLs that begin with a prefix and have no further slash."""
    return lambda prefix: [url for url in urls if url.startswith(prefix) and "/" not in url[len(prefix) :]]


class TestStar:
    def test_matches_are_sorted(self) -> None:
        urls = ["/d/x-2.tar", "/d/x-1.tar", "/d/x-1.tar.index.npz", "/d/y-1.tar", "/d/x-1/2.tar"]
        assert expand("/d/x-*.tar", lister(*urls)) == ["/d/x-1.tar", "/d/x-2.tar"]

    def test_several_stars(self) -> None:
        assert expand("/d/*-*.t*", lister("/d/a-1.tar", "/d/b-2.tgz", "/d/c.tar")) == ["/d/a-1.tar", "/d/b-2.tgz"]

    def test_other_characters_are_themselves(self) -> None:
        urls = ["/d/[ab]?1.tar", "/d/a?1.tar", "/d/[ab]x1.tar"]
        assert expand("/d/[ab]?*.tar", lister(*urls)) == ["/d/[ab]?1.tar"]

    def test_with_braces_lists_and_counts(self) -> None:
        urls = [f"s3://b/{name}-{part}{i}.tar" for name in "xy" for part in "01" for i in "56"]
        assert expand("s3://b/{x,y}-@2*.tar::/z", lister(*urls)) == [*urls, "/z"]

    def test_prefix_that_is_asked_for(self) -> None:
        asked: list[str] = []

        def list_urls(prefix: str) -> list[str]:
            asked.append(prefix)
            return [f"{prefix}1"]

        expand("http://h/x-*?a=/x-*", list_urls)
        expand("http://h/*", list_urls)
        assert asked == ["http://h/x-", "http://h/"]

    def test_a_star_in_the_query_is_itself(self) -> None:
        assert expand("http://h/x.tar?a=*") == ["http://h/x.tar?a=*"]

    def test_a_match_twice(self) -> None:
        with pytest.raises(SpecError, match="this shard is named twice"):
            expand("/d/*::/d/a", lister("/d/a"))

    @pytest.mark.parametrize(
        ("spec", "match"),
        [
            ("/d/y-*.tar", "no shards match this pattern; check the name"),
            ("/*/x.tar", "a \\* is only allowed in the last part of the path; use braces for folders"),
            ("/*/*.tar", "a \\* is only allowed in the last part of the path"),
        ],
    )
    def test_refused(self, spec: str, match: str) -> None:
        with pytest.raises(SpecError, match=match):
            expand(spec, lister("/d/x-1.tar"))

    def test_refused_where_nothing_lists(self) -> None:
        with pytest.raises(SpecError, match="a \\* is not allowed here; give the number of shards"):
            expand("/d/*.tar")

    @given(
        st.lists(st.text("ab[]?!*", min_size=1, max_size=5), min_size=1, max_size=8, unique=True), st.text("ab[]?!*")
    )
    def test_only_the_star_is_special(self, names: list[str], pattern: str) -> None:
        plain = str.maketrans({"[": "L", "]": "R", "?": "Q", "!": "N"})
        expected = sorted(
            f"s3://b/{n}" for n in names if fnmatchcase(n.translate(plain), f"*{pattern}".translate(plain))
        )
        if expected:
            assert expand(f"s3://b/*{pattern}", lister(*(f"s3://b/{n}" for n in names))) == expected


class TestDestination:
    def test_with_a_count(self) -> None:
        out = Destination("/d/out-@20.tgz")
        assert (out.count, out.is_auto, out.manifest) == (20, False, "/d/out-@20.tgz.json")
        assert out.urls() == expand("/d/out-@20.tgz")
        assert out.resolve(7) is out

    def test_of_one_shard(self) -> None:
        out = Destination("http://me@h/out.tgz?k=@3")
        assert (out.count, out.is_auto, out.urls()) == (1, False, ["http://me@h/out.tgz?k=@3"])
        assert out.manifest == "http://me@h/out.tgz.json?k=@3"

    def test_standard_output(self) -> None:
        out = Destination("-")
        assert (out.spec, out.count, out.is_auto, out.urls()) == ("-", 1, False, ["-"])

    @pytest.mark.parametrize(
        ("count", "spec"), [(3, "/d/x-@000003.tgz"), (1_000_000, "/d/x-@1000000.tgz"), (999_999, "/d/x-@999999.tgz")]
    )
    def test_auto(self, count: int, spec: str) -> None:
        out = Destination("/d/x-@auto.tgz")
        assert (out.count, out.is_auto) == (None, True)
        with pytest.raises(SpecError, match="@auto is for outputs only"):
            out.urls()
        assert (out.resolve(count).spec, out.resolve(count).count) == (spec, count)

    def test_a_folder_with_an_at_sign(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = tmp_path / "me@2"
        folder.mkdir()
        monkeypatch.chdir(folder)
        assert Destination("out.tar").urls() == [str(folder / "out.tar")]
        assert Destination("./out-@2.tar").urls() == [str(folder / "out-0.tar"), str(folder / "out-1.tar")]
        assert Destination("out-@auto.tar").resolve(1).urls() == [str(folder / "out-000000.tar")]
        assert not Destination("out.tar").is_auto

    @pytest.mark.parametrize("spec", ["", "/a::/b", "/{a,b}.tar", "/{0..3}.tar", "/x-*.tar"])
    def test_is_one_url(self, spec: str) -> None:
        with pytest.raises(
            SpecError,
            match=re.escape("the destination must be a single URL; give one spec with @N, such as out-@1000.tgz"),
        ):
            Destination(spec)

    def test_ipv6(self) -> None:
        assert Destination("http://[::1]/x-@2.tar").urls() == ["http://[::1]/x-0.tar", "http://[::1]/x-1.tar"]

    @pytest.mark.parametrize("spec", ["/x-@0.tar", f"/x-@{MAX_SHARDS + 1}.tar"])
    def test_counts_are_checked_at_once(self, spec: str) -> None:
        with pytest.raises(SpecError, match="shards"):
            Destination(spec)


def test_parts_of_urls() -> None:
    assert [scheme_of(url) for url in ("S3://b/k", "/a", "a:b", "c:\\d", "-", "1x://a", "./-")] == [
        "s3", "", "", "", "-", "", ""
    ]  # fmt: skip
    assert split_path("https://u@h") == ("https://u@h", "", "")
    assert split_path("https://h/?a/b") == ("https://h", "/", "?a/b")
    assert split_path("a/b?c#d") == ("", "a/b?c#d", "")
    assert name_of("a.tar") == "a.tar"
    assert name_of("s3://b/d/") == ""
    assert [folder_of(url) for url in ("a", "d/a", "/a", "s3://b/a", "http://h/d/a?x/y")] == [
        "./", "d/", "/", "s3://b/", "http://h/d/"
    ]  # fmt: skip
    assert beside("http://h/a.tar#x", ".json") == "http://h/a.tar.json#x"
    assert beside("s3://b/a?b", ".json") == "s3://b/a?b.json"


def test_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("a/../b.tar") == str(tmp_path / "b.tar")
    assert absolute("d/") == f"{tmp_path}/d/"
    assert [absolute(url) for url in ("/", "-", "s3://b/../k", "http://h/a/../b")] == [
        "/", "-", "s3://b/../k", "http://h/a/../b"
    ]  # fmt: skip


@given(st.text())
def test_any_text_gives_urls_or_a_spec_error(text: str) -> None:
    try:
        urls = expand(text, lambda prefix: [prefix + "1"])
    except SpecError as error:
        assert "\n" not in str(error)
    else:
        assert urls and len(urls) == len({identity(url) for url in urls})


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["/a", "@3", "@03", "{b,c}", "{1..3}", "http://", "me@h", "[::1]", "/", "::", "?x", "."]))
)
def test_any_sequence_of_the_grammar_gives_urls_or_a_spec_error(pieces: list[str]) -> None:
    try:
        urls = expand("".join(pieces))
    except SpecError:
        return
    assert all(os.path.isabs(url) or scheme_of(url) for url in urls)


def test_no_io(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stat", "listdir", "scandir", "open", "lstat"):
        monkeypatch.setattr(os, name, None)
    assert len(spec_module.expand("/no/such-@3.tar::http://no.invalid/a::s3://none/b")) == 5


@pytest.mark.parametrize(
    "spec",
    [
        "http:/u:SECRETPW@127.0.0.1:9/x.tar",
        "http://u:a/SECRETPW@10.0.0.5/x.tar",
        "https://u:SECRETPW/@10.0.0.5/x-@3.tar",
    ],
)
def test_a_password_that_looks_like_a_path_is_not_shown(spec: str) -> None:
    with pytest.raises(SpecError, match=r"https?://…: this is not a valid URL") as caught:
        expand(spec)
    assert "SECRET" not in str(caught.value)
