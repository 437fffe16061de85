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
from collections.abc import Callable
from pathlib import PurePath
from random import Random
from typing import Any

import numpy as np

Blind = Callable[[bytes, int], bytes]
"""The fuzzer's own change of some bytes, to at most so many."""

CARD, BLOCK = 80, 2880
_END = b"END".ljust(CARD)

_NUMBERS = (
    "0 1 -1 2 3 7 8 16 32 -32 -64 64 99 100 255 999 1000 32768 65535 2147483647 2147483648 "
    "-2147483649 4294967296 9223372036854775807 9223372036854775808 1000000000000 0.0 -0.0 0.5 "
    "-1.5 1E-300 1E-30 1E30 1E300 -1E300 1E400 1D5 NaN INF"
).split()
_TEXTS = (
    "'' 'text' T F 'nan' 'inf' '1' (1.0,2.0) 'RICE_1' 'GZIP_1' 'GZIP_2' 'HCOMPRESS_1' 'PLIO_1' "
    "'NOCOMPRESS' 'BINTABLE' 'TABLE' 'IMAGE' 'A3DTABLE' '1PB(100)' '1QD' '1PE()' '10E' 'D' 'K' 'A' "
    "'0E' '3A' '16X' 'C' 'M' 'L' '(3,3)' '(-1)' 'RA---TAN' 'DEC--TAN' 'RA---TAN-SIP' 'GLON-CAR' "
    "'WAVE' 'PIXEL' 'deg' 'e-/s' 'electron' 'adu' 'MJy/sr' '10**99Jy' 'x**y' 'count/s' "
    "'2020-01-01T00:00:00' '9999-99-99' '[1:100,1:100]' '[0:0,5:-5]' '[*,*]' 'SCI' 'ERR' 'DQ' "
    "'WHT' 'VARIANCE' 'JWST' 'HST' 'SUBTRACTIVE_DITHER_1' 'x' 'y' 'ra' 'PRIMARY' 'continued&'"
).split()
_WORDS = (
    "BITPIX NAXIS NAXIS1 NAXIS2 NAXIS3 PCOUNT GCOUNT GROUPS EXTEND BSCALE BZERO BLANK BUNIT GAIN "
    "EGAIN CCDGAIN GAINA SATURATE SATLEVEL SATURATA RDNOISE EXPTIME TEXPTIME NCOMBINE PHOTFLAM "
    "PIXAR_SR ZPCTYPE1 CTYPE1 CTYPE2 CTYPE3 CRVAL1 CRVAL2 CRPIX1 CRPIX2 CDELT1 CDELT2 CD1_1 CD1_2 "
    "CD2_1 CD2_2 PC1_1 CUNIT1 CUNIT2 CROTA2 A_ORDER B_ORDER A_2_0 AP_ORDER PV1_1 PV2_1 LONPOLE "
    "LATPOLE RADESYS EQUINOX WCSAXES WCSNAME DATE-OBS MJD-OBS MP_BAD MP_SAT MP_0 BOFFSET BSOFTEN "
    "EXTNAME EXTVER EXTLEVEL XTENSION SIMPLE TFIELDS TTYPE1 TTYPE2 TFORM1 TFORM2 TDIM1 TNULL1 "
    "TSCAL1 TZERO1 TUNIT1 TDISP1 TBCOL1 THEAP ZIMAGE ZSIMPLE ZTENSION ZBITPIX ZNAXIS ZNAXIS1 "
    "ZNAXIS2 ZNAXIS3 ZTILE1 ZTILE2 ZCMPTYPE ZQUANTIZ ZDITHER0 ZBLANK ZNAME1 ZVAL1 ZNAME2 ZVAL2 "
    "ZMASKCMP ZSCALE ZZERO ZPCOUNT ZHECKSUM TELESCOP INSTRUME DETECTOR FILTER DATASEC TRIMSEC "
    "CCDSEC LTV1 LTV2 LTM1_1 INHERIT LONGSTRN CONTINUE COMMENT HISTORY HIERARCH REPFACT ALPHA BETA "
    "A RATE ANGLE DT PIXSCALE NSTARS XSTAR0 YSTAR0 FSTAR0 XSTAR1 FWHM STEP FRAMENX FRAMENY FRAMEX0 "
    "FRAMEY0 ATX ATORDER ORDERWHY THRESH MODEL FRAMESHA PSFSHA CHECKSUM DATASUM"
).split()


def mutate(content: bytes, name: str, rng: Random, blind: Blind, most: int) -> bytes:
    """Return a file's content with one change or several, of a kind that its name tells.

    Parameters
    ----------
    content : bytes
    name : str
        Of the good file that it was made of.
    rng : Random
    blind : callable
    most : int
        Bytes that it may have.
    """
    ways = {".gz": _packed, ".keras": _archive, ".npz": _archive, ".h5": _hdf5}
    ways |= dict.fromkeys((".fits", ".fz"), _fits)
    changed = content
    if rng.random() < 0.1:
        changed = _piece(content, rng, blind)
    else:
        try:
            changed = ways.get(PurePath(name).suffix, _text)(content, rng, blind)
        except Exception:  # what is no such file any more can only be changed blindly
            changed = _piece(content, rng, blind)
    return changed[:most]


def _piece(content: bytes, rng: Random, blind: Blind) -> bytes:
    """Change some bytes blindly, half of the time near the beginning; cut, double or empty some."""
    most = min(len(content), 6000) if rng.random() < 0.5 else len(content)
    at = rng.randrange(max(most, 1))
    n = rng.choice((1, 4, 16, CARD, 1000, BLOCK))
    piece = content[at : at + n]
    way = rng.randrange(8)
    if way == 0:
        new = b""
    elif way == 1:
        new = piece * rng.choice((2, 2, 2, 9))
    elif way == 2:
        new = bytes([rng.choice((0, 255, 32, 127))]) * len(piece)
    elif way == 3 and rng.random() < 0.3:
        return content[:at]
    else:
        new = blind(piece, n + 16)
    return content[:at] + new + content[at + n :]


# --- FITS


def _packed(content: bytes, rng: Random, blind: Blind) -> bytes:
    return gzip.compress(_fits(gzip.decompress(content), rng, blind), 1)


def _fits(content: bytes, rng: Random, blind: Blind) -> bytes:
    hdus = _hdus(content)
    for _ in range(min(1 + int(rng.expovariate(1.0)), 6)):
        number = rng.randrange(len(hdus))
        cards, data = hdus[number]
        way = rng.random()
        if way < 0.75 and cards:
            _change_card(cards, rng, blind)
        elif way < 0.9:
            hdus[number] = (cards, _change_data(data, rng, blind))
        elif way < 0.95:
            hdus.insert(rng.randrange(len(hdus) + 1), ([*rng.choice(hdus)[0]], data))
        elif len(hdus) > 1:
            del hdus[number]
    anew = rng.random() < 0.9
    if rng.random() < 0.5:  # else the numbers of a PSF could not be others
        for cards, _ in hdus:
            cards[:] = [card for card in cards if not card.startswith(b"PSFSHA  ")]
    return b"".join(_hdu_bytes(cards, data, anew) for cards, data in hdus)


def _hdus(content: bytes) -> list[tuple[list[bytes], bytes]]:
    """Split a file into headers and data, as far as its headers tell."""
    hdus, start = [], 0
    while start < len(content):
        end = content.find(_END, start)
        while end >= 0 and (end - start) % CARD:
            end = content.find(_END, end + 1)
        if end < 0:
            break
        cards = [content[i : i + CARD] for i in range(start, end, CARD)]
        begin = start + -(-(end + CARD - start) // BLOCK) * BLOCK
        size = min(max(_data_size(cards), 0), len(content))
        start = begin + -(-size // BLOCK) * BLOCK
        hdus.append((cards, content[begin:start]))
    if start < len(content) or not hdus:
        hdus.append(([], content[start:]))
    return hdus


def _data_size(cards: list[bytes]) -> int:
    values: dict[str, int] = {}
    for card in cards:
        text = card[10:].split(b"/")[0].strip()
        if card[8:10] == b"= " and text.lstrip(b"+-").isdigit() and len(text) < 19:
            values.setdefault(card[:8].decode("latin-1").strip(), int(text))
    n = 1 if values.get("NAXIS", 0) else 0
    for k in range(1, min(values.get("NAXIS", 0), 999) + 1):
        n *= values.get(f"NAXIS{k}", 1)
    size = abs(values.get("BITPIX", 8)) // 8 * max(values.get("GCOUNT", 1), 1)
    return size * (n + max(values.get("PCOUNT", 0), 0))


def _change_card(cards: list[bytes], rng: Random, blind: Blind) -> None:
    at = rng.randrange(len(cards))
    keyword, text = cards[at][:8], cards[at][10:]
    way = rng.random()
    if way < 0.35:
        cards[at] = _card(keyword, _value(rng))
    elif way < 0.55:
        cards[at] = (cards[at][:10] + blind(text.rstrip() or b" ", CARD)).ljust(CARD)[:CARD]
    elif way < 0.8:
        word = rng.choice(_WORDS)
        word = word[:-1] + str(rng.randrange(12)) if word[-1].isdigit() else word
        there = [i for i, card in enumerate(cards) if card[:8].strip() == word.encode()]
        new = _card(word.encode().ljust(8), _value(rng))
        if there and rng.random() < 0.8:
            cards[there[0]] = new
        else:
            cards.insert(rng.randrange(len(cards) + 1), new)
    elif way < 0.87:
        del cards[at]
    elif way < 0.92:
        cards.insert(rng.randrange(len(cards) + 1), cards[at])
    elif way < 0.96:
        other = rng.randrange(len(cards))
        cards[at], cards[other] = cards[other], cards[at]
    else:
        cards[at] = blind(cards[at], CARD).ljust(CARD)[:CARD]


def _value(rng: Random) -> str:
    if rng.random() < 0.1:
        return str(rng.choice((1, -1)) * rng.randrange(10 ** rng.randrange(1, 60)))
    return rng.choice(_NUMBERS if rng.random() < 0.6 else _TEXTS)


def _card(keyword: bytes, value: str) -> bytes:
    return (keyword + b"= " + value.rjust(20).encode()).ljust(CARD)[:CARD]


def _change_data(data: bytes, rng: Random, blind: Blind) -> bytes:
    if rng.random() < 0.4 and len(data) >= 16:
        at, n = rng.randrange(len(data)) // 8 * 8, rng.choice((8, 8, 64, 4096, len(data)))
        odd = (np.nan, np.inf, -np.inf, 0.0, 1e300, -1e300, 1e-310, 1.0, -1.0, 2.0**31)
        kind = rng.choice((">f8", ">f4", ">i4", ">i2"))
        with np.errstate(all="ignore"):
            one = np.array(rng.choice(odd)).astype(kind).tobytes()
        piece = data[at : at + n]
        new = (one * (len(piece) // len(one) + 1))[: len(piece)]
        return data[:at] + new + data[at + n :]
    return _piece(data, rng, blind)


def _hdu_bytes(cards: list[bytes], data: bytes, anew: bool) -> bytes:
    if not cards:
        return data
    data += bytes(-len(data) % BLOCK)
    cards = [*cards, _END]
    where = {card[:8]: i for i, card in enumerate(cards)}
    total = _sum(data)
    if anew and b"DATASUM " in where:
        cards[where[b"DATASUM "]] = f"DATASUM = '{total}'".ljust(CARD).encode()
    if anew and b"CHECKSUM" in where:
        cards[where[b"CHECKSUM"]] = f"CHECKSUM= '{'0' * 16}'".ljust(CARD).encode()
    head = b"".join(cards)
    head = head.ljust(-(-len(head) // BLOCK) * BLOCK)
    if anew and b"CHECKSUM" in where:
        at = where[b"CHECKSUM"] * CARD + 11
        head = head[:at] + _encoded(0xFFFFFFFF - _sum(head, total)) + head[at + 16 :]
    return head + data


def _sum(content: bytes, start: int = 0) -> int:
    """Return the sum in ones' complement of 32-bit numbers, as the FITS standard has it."""
    numbers = np.frombuffer(content + bytes(-len(content) % 4), ">u4")
    total = int(numbers.sum(dtype=np.uint64)) + start
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def _encoded(value: int) -> bytes:
    """Return a sum as 16 letters and digits (appendix J of the FITS standard)."""
    out = bytearray(16)
    for i in range(4):
        byte = value >> (24 - 8 * i) & 0xFF
        four = [byte // 4 + 48] * 4
        four[0] += byte % 4
        while any(58 <= c <= 64 or 91 <= c <= 96 for c in four):
            for j in (0, 2):
                if any(58 <= c <= 64 or 91 <= c <= 96 for c in four[j : j + 2]):
                    four[j], four[j + 1] = four[j] + 1, four[j + 1] - 1
        out[i::4] = bytes(four)
    return bytes(out[-1:] + out[:-1])


# --- archives and sets

_good_sets: set[bytes] = set()


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
    return _text(content, rng, blind) if name.endswith(".json") else _piece(content, rng, blind)


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
    """Change a set by the library, the good one only: a damaged one may end this process."""
    if content not in _good_sets or rng.random() < 0.3:
        return _piece(content, rng, blind)
    import h5py

    stream = io.BytesIO(content)
    with h5py.File(stream, "r+") as file:
        for _ in range(rng.choice((1, 1, 2))):
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
        file.attrs[rng.choice([*file.attrs, "a"])] = rng.choice(odd)
        return
    if way == 2:
        del file.attrs[rng.choice(list(file.attrs))]
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
        kind = "f4" if values.dtype.kind == "O" else values.dtype
        file.create_dataset(key, shape, kind, chunks=tuple(min(max(n, 1), 8) for n in shape))
    elif values.dtype.kind in "if":
        odd = np.array([np.nan, np.inf, -1, 0, 7, 1e300, 2.0**31, -(2.0**63)])
        where = np.random.default_rng(rng.randrange(2**32)).random(values.shape) < 0.2
        with np.errstate(all="ignore"):
            values[where] = rng.choice(odd.tolist() if values.dtype.kind == "f" else [-1, 9, 127])
        file.create_dataset(key, data=values)
    else:
        file.create_dataset(
            key, data=[rng.choice((b"", b"\xff", b"a" * 70000, b"../b", b"a\0b"))] * 3
        )


def keep_good(content: bytes) -> None:
    """Tell a good set from its damaged descendants."""
    _good_sets.add(content)


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
