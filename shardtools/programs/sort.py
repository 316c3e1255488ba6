"""htsort as a function: sort, group, join and reduce."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, Unpack, get_args

from shardtools.errors import JobError
from shardtools.jobs.exchange.duplicates import Merge, OnConflict
from shardtools.programs.choosing import ChoiceKeywords, choice_of
from shardtools.programs.exchanging import (
    ExchangeKeywords,
    ExchangeSettings,
    exchange,
    exchange_called,
    exchange_settings,
    make_exchange,
)
from shardtools.programs.keywords import WRITE, spelled_out
from shardtools.programs.running import Call, Specs, choice, pairs_of, run_options, script_of

if TYPE_CHECKING:
    from shardtools.jobs.choice import Choice
    from shardtools.jobs.exchange.keying import Keying
    from shardtools.jobs.exchange.plan import Exchange
    from shardtools.jobs.report import JobResult
    from shardtools.jobs.script import Code

Reduction = Callable[[Any, Iterator[Any]], Mapping[str, object] | Iterable[Mapping[str, object]] | None]


@spelled_out((*WRITE, ChoiceKeywords, ExchangeKeywords), exchange_settings, choice_of, run_options)
def sort(
    sources: Specs,
    destination: str | os.PathLike[str],
    *,
    by: str | Callable[..., object] | None = None,
    reverse: bool = False,
    reduce: Reduction | None = None,
    combine: Reduction | None = None,
    script: str | os.PathLike[str] | None = None,
    params: Mapping[str, object] | None = None,
    version: str | None = None,
    merge: Merge | None = None,
    on_conflict: OnConflict = "error",
    unique: bool = False,
    seed: int = 0,
    progress: bool = False,
    **keywords: Unpack[ExchangeKeywords],
) -> JobResult:
    """Sort the samples of ``sources`` into ``destination``; reduce, join or group them on the way.

    ``by`` is ``"key"`` (the default), a field or a path of JSON (``"json.score"``), perhaps with how to read it
    (``"cls:int"``; text, int, float or natural), or a function of a record. All samples of shard i come before those of
    shard i + 1, and those with the same sort key are in one shard, in the order of ``sources``; ``reverse`` puts the
    largest first.

    ``reduce``, called with a sort key and its records, returns the records that take their place; ``combine`` does the
    same for a part of them, before they are brought together. ``script`` names a script with ``sort_key``,
    ``reduce_samples`` or ``combine_samples`` instead. ``params`` are keywords for these functions. ``merge`` makes one
    sample of those with one key: of keys that every source has (``"inner"``), any has (``"outer"``) or the first has
    (``"left"``); ``on_conflict`` says what to do when several have a field. ``unique`` keeps the first of those with
    the same sort key. For ``version`` see `shardtools.map`. ``seed`` is for ``sample``. ``progress`` shows a bar.

    See `shardtools.programs.exchanging.ExchangeKeywords` for ``keywords``.

    Raises:
        SpecError: a spec is wrong.
        JobError: the options make no sense.
        OutputExistsError: an output exists, and may be neither replaced nor continued.
        ScriptError: a function cannot be used.
        ShardtoolsError: the first error of a shard or sample, if ``on_error`` is not ``"skip"``.

    >>> import shardtools as st
    >>> result = st.sort("train-@2.tar", "by-class-@1.tar", by="cls:int", reverse=True)
    >>> [record["key"] for record in st.open("by-class-@1.tar")]
    ['bee', 'dog', 'ape', 'cat']
    >>> def count(key, records):
    ...     return {"key": str(key), "json": {"samples": sum(1 for _ in records)}}
    >>> result = st.sort("train-@2.tar", "counts-@1.tar", by="cls:int", reduce=count)
    >>> [record["json"] for record in st.open("counts-@1.tar")]
    [b'{"samples": 2}', b'{"samples": 2}']
    """
    if not (by is None or isinstance(by, str) or callable(by)):
        raise JobError(f"by is of type {type(by).__name__}", fix="name one field, or give a function of a record")
    functions = {"sort_key": by if callable(by) else None, "reduce_samples": reduce, "combine_samples": combine}
    with exchange_called(sort, sources, destination, seed=seed, **keywords) as (call, settings):
        code = _code(
            {name: some for name, some in functions.items() if some is not None}, script, params, version, call
        )
        what = sort_exchange(
            settings,
            by=None if callable(by) else by,
            reverse=reverse,
            code=code,
            merge=merge,
            on_conflict=on_conflict,
            unique=unique,
            on_error=call.options.on_error,
            chosen=call.choice,
        )
        return exchange(call, what, progress)


def _code(
    functions: Mapping[str, Callable[..., object]],
    script: str | os.PathLike[str] | None,
    params: Mapping[str, object] | None,
    version: str | None,
    call: Call,
) -> Code | None:
    if functions and script is not None:
        raise JobError("functions and a script cannot be used together", fix="give one of them")
    if script is not None:
        return script_of(script, params, version)
    if not functions:
        return None
    from shardtools.jobs.functions import functions_of

    pairs_of("params", params)
    return functions_of(functions, params, version, resumes=call.options.resume)


def sort_exchange(
    settings: ExchangeSettings,
    *,
    by: str | None,
    reverse: bool,
    code: Code | None,
    merge: Merge | None,
    on_conflict: OnConflict,
    unique: bool,
    on_error: Literal["fail", "skip"],
    chosen: Choice,
) -> Exchange:
    """Return the exchange that sorts what ``chosen`` takes, and reduces or joins.

    Raises:
        JobError: the options make no sense together.
        ScriptError: the code cannot be used.
    """
    from shardtools.jobs.exchange.duplicates import DuplicatePolicy
    from shardtools.jobs.exchange.keying import SORT_KEY
    from shardtools.jobs.exchange.reduce import COMBINE, REDUCE

    if merge is not None:
        choice("merge", merge, get_args(Merge))
    choice("on_conflict", on_conflict, get_args(OnConflict))
    names = set() if code is None else _names(code)
    keying = _keying(by, reverse, code if SORT_KEY in names else None)
    reduces = REDUCE in names
    if on_conflict != "error" and merge is None:
        raise JobError("--on-conflict needs --merge", fix="add it, or leave out --on-conflict")
    if sum([merge is not None, unique, reduces]) > 1:
        raise JobError(f"--merge, --unique and {REDUCE} cannot be used together", fix="choose one of them")
    if merge is not None and (keying.kind != "key" or settings.on_duplicate != "error"):
        raise JobError("--merge always joins samples by their key", fix="leave out --by, sort_key and --on-duplicate")
    if merge is not None and keying.reading not in ("text", "natural"):
        what = f"--merge cannot join by key:{keying.reading}, which takes 1 and 01 for the same key"
        raise JobError(what, fix="leave out --by, or use key:natural")
    policy = DuplicatePolicy(
        settings.on_duplicate,
        unique,
        merge,
        on_conflict,
        code if reduces else None,
        keying if reduces else None,
        on_error,
    )
    job = {"by": SORT_KEY if keying.kind == "script" else by or "key"}
    return make_exchange("htsort", keying, policy, settings, job, chosen, combine=COMBINE in names)


def _names(code: Code) -> set[str]:
    """Return which of the functions of a sort there are.

    Raises:
        ScriptError: there are none, or they cannot be called.
        JobError: one is there without the one that it needs.
    """
    from shardtools.jobs.exchange.keying import SORT_KEY
    from shardtools.jobs.exchange.reduce import COMBINE, REDUCE
    from shardtools.jobs.script import defines, function

    names = defines(code, SORT_KEY, REDUCE, COMBINE)
    if COMBINE in names and REDUCE not in names:
        raise JobError(f"there is {COMBINE} without {REDUCE}", fix=f"define {REDUCE} as well")
    if not names:
        function(code, SORT_KEY)  # which says what is missing
    for name in names & {REDUCE, COMBINE}:
        function(code, name, positional=2)
    return names


def _keying(by: str | None, reverse: bool, code: Code | None) -> Keying:
    from shardtools.jobs.exchange.keying import SORT_KEY, Keying
    from shardtools.jobs.exchange.order import READINGS

    if code is not None:
        if by:
            raise JobError(f"--by and {SORT_KEY} cannot be used together", fix="choose one of them")
        return Keying("script", script=code, reverse=reverse)
    what, colon, how = (by or "key").partition(":")
    if not what or (colon and how not in READINGS):
        fix = f"HOW is one of {', '.join(READINGS)}; --reverse sorts in descending order"
        raise JobError(f"--by {by}: not of the form WHAT or WHAT:HOW", fix=fix)
    if what == "key":
        return Keying("key", reading=how or "text", reverse=reverse)
    return Keying("field", field=what, reading=how or "text", reverse=reverse)
