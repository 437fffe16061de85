"""Changes of FITS files that get past their checksums, and blind ones of any: of `mutators`."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

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


def change_piece(content: bytes, rng: Random, blind: Blind) -> bytes:
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


def change_fits(content: bytes, rng: Random, blind: Blind) -> bytes:
    """Change cards, data and HDUs, and make the checksums anew, mostly."""
    hdus = split_hdus(content)
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
    return b"".join(hdu_bytes(cards, data, anew) for cards, data in hdus)


def split_hdus(content: bytes) -> list[tuple[list[bytes], bytes]]:
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
        cards[at] = make_card(keyword, _value(rng))
    elif way < 0.55:
        cards[at] = (cards[at][:10] + blind(text.rstrip() or b" ", CARD)).ljust(CARD)[:CARD]
    elif way < 0.8:
        word = rng.choice(_WORDS)
        word = word[:-1] + str(rng.randrange(12)) if word[-1].isdigit() else word
        there = [i for i, card in enumerate(cards) if card[:8].strip() == word.encode()]
        new = make_card(word.encode().ljust(8), _value(rng))
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


def make_card(keyword: bytes, value: str) -> bytes:
    """Return a card of 80 bytes."""
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
    return change_piece(data, rng, blind)


def hdu_bytes(cards: list[bytes], data: bytes, anew: bool) -> bytes:
    """Return the bytes of an HDU, its checksums made `anew` if it has any."""
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
