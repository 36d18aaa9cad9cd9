"""The one place where secrets are taken out of text."""

import re

_USERINFO = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)(?P<userinfo>[^\s/?#]*)@")
_AUTHORIZATION = re.compile(r"(?i)(authorization\s*[:=]\s*)(basic|digest|bearer)?\s*[^\r\n,;]+")
_SETTING = re.compile(r"(?i)((?:sasl_plain_)?password|passwd|pwd|token|secret|api_?key)(\s*[\"']?\s*[=:]\s*[\"']?)[^\s\"'&,;}]+")
MASK = "***"


def redact(text: object) -> str:
    """``text`` without passwords: user info of URLs, Authorization headers, ``password=...`` settings.

    Everything between ``://`` and the last ``@`` before a slash is taken for user info, so a password that holds
    ``@`` or ``:`` is covered too. The user name stays readable where it can be told apart.
    """

    def mask(match: re.Match[str]) -> str:
        user, colon, _ = match["userinfo"].partition(":")
        return f"{match['scheme']}{user}{':' + MASK if colon else ''}@"

    text = _USERINFO.sub(mask, str(text))
    text = _AUTHORIZATION.sub(lambda m: m[1] + MASK, text)
    return _SETTING.sub(lambda m: m[1] + m[2] + MASK, text)
