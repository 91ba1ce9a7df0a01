"""Money as invoices and people have it: which currencies there are, their minor units (ISO 4217), how one is read."""

import re
from fractions import Fraction

from shared_models.records.kinds import Charter
from shared_models.records.refusals import Refusal, Refused

_BY_DIGITS = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    2: (
        "AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD"
        " CDF CHE CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD"
        " GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA"
        " MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR"
        " RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD"
        " TZS UAH USD USN UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG"
    ),
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
_DIGITS = {code: digits for digits, codes in _BY_DIGITS.items() for code in codes.split()}

# How people read work.
UNITS = (("EFLOP", 10**18), ("PFLOP", 10**15), ("TFLOP", 10**12), ("GFLOP", 10**9), ("MFLOP", 10**6), ("FLOP", 1))


def digits(currency: str) -> int:
    """Of the currency's minor unit. Raises `Refused(UNKNOWN_CURRENCY)`."""
    if currency not in _DIGITS:
        raise Refused(Refusal.UNKNOWN_CURRENCY, f"{currency[:20]} is no currency of ISO 4217")
    return _DIGITS[currency]


def minor(amount: str, currency: str) -> Fraction:
    """An amount of a record, exactly, in minor units. Raises `Refused(UNKNOWN_CURRENCY)`."""
    unit: int = 10 ** digits(currency)
    return Fraction(amount) * unit


def amount(text: str) -> str:
    """A decimal amount such as 12.00 as a record has it: 12. Raises `Refused(BAD_FIELD)`."""
    if not re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,30})?", text):
        raise Refused(Refusal.BAD_FIELD, f"{text[:60]!r} is not an amount such as 12.50")
    return spelled(Fraction(text), text)


def spelled(amount: Fraction, what: str) -> str:
    """An amount as a record has it, exactly. Raises `Refused(BAD_FIELD)` where it has more digits than a record's."""
    scaled = amount * 10**12
    if scaled.denominator != 1 or scaled >= 10**30:
        raise Refused(Refusal.BAD_FIELD, f"{what} is of more digits than 18 before the point and 12 behind it")
    whole, rest = divmod(scaled.numerator, 10**12)
    return f"{whole}.{rest:012}".rstrip("0").rstrip(".")


def money(minor: int | Fraction, charter: Charter) -> str:
    """An amount in units of the currency: whole minor units, or rationals to four digits more, `~` where cut there."""
    more = 0 if isinstance(minor, int) else 4
    scaled = abs(Fraction(minor)) * 10**more
    unit, whole = 10 ** (charter.minor_digits + more), scaled.numerator // scaled.denominator
    point = f".{whole % unit:0{charter.minor_digits + more}}" if unit > 1 else ""
    return f"{'-' if minor < 0 else ''}{whole // unit:,}{point}{'' if scaled.denominator == 1 else '~'}"
