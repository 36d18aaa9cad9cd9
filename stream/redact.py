"""The one place where secrets are taken out of text.

A password may hold anything, ``@``, ``:``, ``/`` and spaces included, and then nobody can tell for sure where it ends.
In doubt more is masked than needed: within a line, everything from the first ``:`` behind ``://`` to the last ``@``
before the next URL.
"""

import re
from collections.abc import Mapping

MASK = "***"

_LINE_OR_URL = re.compile(r"(?=[\r\n])|(?=\b(?:rtsps?|https?|kafka|file|tcp|udp)://)")
_SEPARATOR = re.compile(r"(?i)\b(?:rtsps?|https?):[\\/]*(?=\S)|:[\\/]{2,}")  # slashes may be escaped, missing or wrong
_AT = re.compile(r"@(?!sha256:[0-9a-f]{12})")  # but not the one in the identity of a model
_ENCODED_SEPARATOR = re.compile("%3A%2F%2F", re.IGNORECASE)
_ENCODED_AT = re.compile("%40")
_COLON = re.compile(":|%3A", re.IGNORECASE)
_AUTHORIZATION = re.compile(r"(?i)(authorization[\"']?\s*[:=]\s*)[^\r\n]+")
_SECRET_KEY = re.compile(r"(?i)password|passwd|passphrase|pwd|token|secret|api[_-]?key|authorization")
_QUERY = re.compile(r"(?i)((?:[?&]|%3F|%26)(?:pass|pw|auth|p)(?:=|%3D))(?:(?!%26)[^&\s\"'])+")  # as cameras name them
_SETTING = re.compile(
    r"""(?ix)
    (?P<key> (?:password | passwd | passphrase | pwd | token | secret | api[_-]?key) [\w.-]{0,40}
        (?<! \.csv ) (?<! \.json ) (?<! \.jsonl ) (?<! \.mp4 ) (?<! \.onnx ) (?<! \.xml ) (?<! \.yaml )  # no file's name
        \\?["']? \s* (?: => | [=:] ) \s* )
    (?: b?\\?(?P<double>") (?: \\. | [^"\\] )* "? | b?(?P<single>') (?: \\. | [^'\\] )* '? | \S+ )
    """
)


def redact(text: object) -> str:
    """``text`` without passwords: user info and queries of URLs, Authorization headers, ``password=...`` settings.

    The user name stays readable, and so does a URL that holds only a user name. The value of a setting ends with its
    closing quote, or, unquoted, at the next space.
    """
    redacted = "".join(_mask_userinfo(part, _SEPARATOR, _AT) for part in _LINE_OR_URL.split(str(text)))
    redacted = "".join(_mask_userinfo(part, _ENCODED_SEPARATOR, _ENCODED_AT) for part in redacted.splitlines(keepends=True))
    redacted = _AUTHORIZATION.sub(lambda match: match[1] + MASK, redacted)
    redacted = _QUERY.sub(lambda match: match[1] + MASK, redacted)
    return _SETTING.sub(_mask_setting, redacted)


def redact_value(value: object, key: str = "") -> object:
    """``value`` without secrets: texts, and those in mappings and sequences; anything else that is no number as text.

    Args:
        key: under which it stands; what stands under ``password``, ``token`` and the like is masked whatever it is.
    """
    match value:
        case None | bool():
            return value
        case _ if _SECRET_KEY.search(key):
            return MASK
        case int() | float():
            return value
        case Mapping():
            return {redact(name): redact_value(one, str(name)) for name, one in value.items()}
        case list() | tuple() | set() | frozenset():
            return [redact_value(one) for one in value]
        case _:
            return redact(value)


def reason(error: BaseException) -> str:
    """The first line of an error's text without passwords; its type where it says nothing."""
    lines = str(error).strip().splitlines()
    return redact(lines[0]) if lines else type(error).__name__


def _mask_userinfo(part: str, separator: re.Pattern[str], at: re.Pattern[str]) -> str:
    """``part`` of a line that holds at most one URL, with the password in it masked."""
    start = separator.search(part)
    ends = [match.start() for match in at.finditer(part, start.end())] if start else []
    colon = _COLON.search(part, start.end(), ends[-1]) if start and ends else None
    return part[: colon.end()] + MASK + part[ends[-1] :] if colon else part


def _mask_setting(match: re.Match[str]) -> str:
    quote = match["double"] or match["single"] or ""
    return f"{match['key']}{quote}{MASK}{quote}"
