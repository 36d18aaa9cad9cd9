"""Put ``serve_config.yaml`` into ``rayservice.yaml`` as its ``serveConfigV2``: ``make kube``."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEGIN = "  serveConfigV2: |\n"
INDENT = "    "


def render(rayservice: str, serve_config: str) -> str:
    """``rayservice`` with the text of ``serve_config`` as the block below ``serveConfigV2``.

    Raises:
        ValueError: there is no such block, or more than one.
    """
    head, begin, rest = rayservice.partition(BEGIN)
    if not begin or BEGIN in rest:
        raise ValueError(f"expected one line {BEGIN!r}")
    lines = rest.splitlines(keepends=True)
    end = next((i for i, line in enumerate(lines) if line.strip() and not line.startswith(INDENT)), len(lines))
    block = "".join(f"{INDENT}{line}" if line.strip() else line for line in serve_config.splitlines(keepends=True))
    return head + begin + block + "".join(lines[end:])


def main() -> None:
    """Rewrite ``rayservice.yaml`` in place."""
    target = ROOT / "kube" / "rayservice.yaml"
    target.write_text(render(target.read_text(encoding="utf-8"), (ROOT / "serve_config.yaml").read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
