import re
import tomllib
from dataclasses import asdict
from pathlib import Path

from tracksided.config import Settings, parse_settings

PAGE = Path(__file__).parents[3] / "docs/operations.md"


def keys_of(table: dict[str, object], prefix: str = "") -> set[str]:
    keys = set()
    for key, value in table.items():
        keys |= keys_of(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
    return keys


def test_the_settings_on_the_page_are_all_there_are_with_their_defaults():
    (block,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    document = tomllib.loads(block)

    written = parse_settings([("operations.md", document)])

    assert written == Settings()
    assert keys_of(document) == {
        key for key in keys_of(asdict(Settings())) if not is_of_a_rule(key)
    }


def is_of_a_rule(key: str) -> bool:
    """Whether a key belongs to one alert rule: docs/alerts.md has those."""
    return key.startswith("alerts.") and key.count(".") > 1
