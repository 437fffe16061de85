"""Changes of files that get past their checksums: of `benchmarks.robust.fuzz`.

A byte changed at random in a file with checksums tests the checksum alone. So a FITS file is
changed card by card or in its data, and its checksums are made anew; an archive is changed in a
member, and packed again; a set is changed through HDF5's own library. Some changes are blind.
"""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from random import Random
from typing import Any

import numpy as np

from benchmarks.robust.fits_mutators import Blind, change_fits, change_piece


def mutate(content: bytes, name: str, rng: Random, blind: Blind, most: int) -> bytes:
    """Return a file's content with one change or several, of a kind that its name tells.

    Parameters
    ----------
    content : bytes
    name : str
        Of the good file that it was made of, or its ending.
    rng : Random
    blind : callable
    most : int
        Bytes that it may have.
    """
    ways = {".gz": _packed, ".keras": _archive, ".npz": _archive, ".h5": _hdf5}
    ways |= dict.fromkeys((".fits", ".fz"), change_fits)
    changed = content
    if rng.random() < 0.1:
        changed = change_piece(content, rng, blind)
    else:
        try:
            changed = ways.get(f".{name.rpartition('.')[2]}", _text)(content, rng, blind)
        except Exception:  # what is no such file any more can only be changed blindly
            changed = change_piece(content, rng, blind)
    return changed[:most]


# --- archives and sets


def _packed(content: bytes, rng: Random, blind: Blind) -> bytes:
    return gzip.compress(change_fits(gzip.decompress(content), rng, blind), 1)


_good_sets: list[bytes] = []


def _archive(content: bytes, rng: Random, blind: Blind) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        members = {entry.filename: old.read(entry) for entry in old.infolist()}
    names = list(members)
    # What says what the others are is small, and more often wrong in an interesting way.
    name = rng.choice([n for n in names if n.endswith(".json")] * 2 + names)
    way = rng.random()
    if way < 0.85:
        members[name] = _member(name, members[name], rng, blind)
    elif way < 0.9:
        del members[name]
    elif way < 0.95:
        members[name], members[rng.choice(names)] = members[rng.choice(names)], members[name]
    else:
        members[rng.choice(("../a", "a", "cutouts.npy", "x.npy", "y.npy", "groups.npy"))] = members[
            name
        ]
    stream = io.BytesIO()
    how = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(stream, "w", how, compresslevel=1) as new:
        for key, value in members.items():
            new.writestr(key, value)
    return stream.getvalue()


def _member(name: str, content: bytes, rng: Random, blind: Blind) -> bytes:
    if name.endswith(".json") and rng.random() < 0.8:
        return json.dumps(_change_json(json.loads(content), rng, blind)).encode()
    if name.endswith(".npy") and rng.random() < 0.6:
        n = 10 + content[8] + 256 * content[9]
        return _changed_header(content[:n], rng, blind) + content[n:]
    return (
        _text(content, rng, blind) if name.endswith(".json") else change_piece(content, rng, blind)
    )


def _changed_header(head: bytes, rng: Random, blind: Blind) -> bytes:
    """Change the words of an .npy header; its length stays right."""
    text = head[10:].rstrip()
    new = rng.choice(
        (b"'<f8'", b"'>f4'", b"'|O'", b"'<c8'", b"'<U9'", b"'|S0'", b"'<i2'", b"'|b1'", b"'<M8[s]'",
         b"[('a','<f4')]", b"True", b"()", b"(0,)", b"(-1, 31, 31)", b"(5, 31, 33)", b"(1,)",
         b"(24, 31, 31)", b"(9223372036854775807, 31, 31)", b"(2, 5, 5)", b"(9, 1001, 1001)")
    )  # fmt: skip
    tokens = [b"'<f4'", b"'<f8'", b"False", text[text.find(b"(") : text.find(b")") + 1]]
    text = text.replace(rng.choice(tokens), new) if rng.random() < 0.8 else blind(text, 200)
    text = text.ljust(len(head) - 11) + b"\n"
    return head[:8] + len(text).to_bytes(2, "little") + text if len(text) < 65536 else head


_PLAIN: tuple[Any, ...] = (
    None, True, 0, 1, -1, 2, 41, 41.0, 1.5, 1e-300, 1e300, float("nan"), float("inf"), 10**30, "",
    "a", "float32", "linear", "relu", "channels_first", [], [0], [1, 2], [None, 3], {}, {"a": 1},
    "__lambda__", "os", "system", "keras.layers", "Lambda", "Dense", "x" * 1000, [[[[]]]],
)  # fmt: skip


def _change_json(value: Any, rng: Random, blind: Blind) -> Any:
    """Change one place of a tree."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(list(value))
        way = rng.random()
        if way < 0.07:
            return {k: v for k, v in value.items() if k != key}
        if way < 0.12:
            return {**value, rng.choice(("a", "name", "kind", key + "_")): value[key]}
        return {**value, key: _change_json(value[key], rng, blind)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        way = rng.random()
        if way < 0.1:
            return value[:at] + value[at + 1 :]
        if way < 0.2:
            return [*value, value[at]]
        return [*value[:at], _change_json(value[at], rng, blind), *value[at + 1 :]]
    if isinstance(value, str) and rng.random() < 0.4:
        return blind(value.encode() or b"a", 60).decode("latin-1")
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.4:
        return value * rng.choice((-1, 2, 10, 0.1, 1000, 1e9)) + rng.choice((0, 1, -1))
    return rng.choice(_PLAIN)


def _hdf5(content: bytes, rng: Random, blind: Blind) -> bytes:
    """Change a set by the library, a good one: a damaged one may end this process."""
    if not _good_sets or rng.random() < 0.2:
        return change_piece(content, rng, blind)
    import h5py

    stream = io.BytesIO(rng.choice(_good_sets))
    with h5py.File(stream, "r+") as file:
        for _ in range(rng.choice((1, 1, 2, 3))):
            _change_set(file, rng)
    return stream.getvalue()


def _change_set(file: Any, rng: Random) -> None:
    import h5py

    key = rng.choice(list(file))
    old = file[key]
    way = rng.randrange(8)
    if way <= 1:
        odd = (0, -1, 7, 15, 16, 1e300, np.nan, "text", b"\xff\xfe", "[" * 999, "{}", "null",
               [1, 2], np.zeros((3, 3)), h5py.Empty("f4"), True, 10**18, -1.0, 4.0)  # fmt: skip
        # Texts of any length are never read.
        value = rng.choice(odd)
        value = np.bytes_(value.encode()) if isinstance(value, str) else value
        file.attrs[rng.choice([*file.attrs, "a"])] = value
        return
    if way == 2:
        del file.attrs[rng.choice(list(file.attrs))]
        return
    if old.size > 10**6:  # by a change before
        return
    values = old[()]
    del file[key]
    if way == 3:
        links = (h5py.SoftLink(f"/{rng.choice(list(file))}"), h5py.ExternalLink("a.h5", "/x"))
        file[key] = rng.choice(links)
    elif way == 4:
        kind = rng.choice(("i1", "u8", "f2", ">f8", "c8", "S5", "bool", "f4", h5py.string_dtype()))
        file.create_dataset(key, old.shape if rng.random() < 0.7 else (), kind)
    elif way == 5:
        shape = tuple(int(n * rng.choice((0, 1, 1, 2, 10**7))) for n in values.shape)
        file.create_dataset(
            key, shape, values.dtype, chunks=tuple(min(max(n, 1), 8) for n in shape)
        )
    elif values.dtype.kind in "if":
        odd = np.array([np.nan, np.inf, -1, 0, 7, 1e300, 2.0**31, -(2.0**63)])
        where = np.random.default_rng(rng.randrange(2**32)).random(values.shape) < 0.2
        with np.errstate(all="ignore"):
            values[where] = rng.choice(odd.tolist() if values.dtype.kind == "f" else [-1, 9, 127])
        file.create_dataset(key, data=values)
    else:
        file.create_dataset(
            key, data=np.array([rng.choice((b"", b"\xff", b"a" * 70000, b"../b", b"a\0b"))] * 3)
        )


def keep_good(content: bytes) -> None:
    """Keep a good set, to change it."""
    _good_sets.append(content)


# --- text

_TOKENS = (
    "nan inf -inf 1e999 -1 0 1e300 99999999999999999999 x y ra dec id flux # , ; \t \n \r\n \0 ' "
    '" "" ( ) [ ] { } - : | = + circle ellipse box polygon image fk5 physical galactic icrs deg '
    "rad ' r p i 12:30:45 -12d30m global color=green # --- # datatype: name: float64 int8 string "
    "bool object unit: subtype: json shape meta: !!omap !!python/name:os.system &a *a <<: %ECSV "
    "1.0 0.9 delimiter: 100% \ufeff \u00e9 \u221e True None NULL 1_000 0x10 1,5 1;2 catalog"
).split(" ")


def _text(content: bytes, rng: Random, blind: Blind) -> bytes:
    """Change words and lines."""
    lines = content.split(b"\n")
    for _ in range(min(1 + int(rng.expovariate(0.7)), 8)):
        at = rng.randrange(len(lines))
        way = rng.random()
        if way < 0.1:
            del lines[at]
        elif way < 0.2:
            lines.insert(rng.randrange(len(lines) + 1), lines[at])
        elif way < 0.4:
            lines[at] = blind(lines[at] or b" ", len(lines[at]) + 30)
        else:
            lines[at] = _change_words(lines[at], rng)
        lines = lines or [b""]
    return b"\n".join(lines)


def _change_words(line: bytes, rng: Random) -> bytes:
    for apart in rng.sample((b" ", b",", b"(", b":"), 4):
        words = line.split(apart)
        if len(words) > 1:
            break
    at, token = rng.randrange(len(words)), rng.choice(_TOKENS).encode()
    way = rng.randrange(4)
    if way == 0:
        words[at] += token
    elif way == 1:
        words.insert(at, token)
    elif way == 2:
        del words[at]
    else:
        words[at] = token
    return apart.join(words)
