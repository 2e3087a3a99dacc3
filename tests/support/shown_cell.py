"""What TensorBoard shows of a cell of a Markdown table."""

import html
import re
import warnings

# What settings look like, and Markdown takes for its own.
LIKE_MARKUP = (
    r".*\.(q_proj|v_proj)$",
    r"^(?!.*lm_head).*$",
    "__init__",
    "_x_ y_",
    "[a](b)",
    "`x`",
    "*.pt",
    "**/*.json",
    "x\\|y",
    "x\\",
    "</s>",
    "<|endoftext|>",
    "a_b__c",
    "[0.9, 0.95]",
)
_OF_MARKDOWN = re.compile(r"</?(?:em|strong|a|code|p)\b[^>]*>")


def shown_cell(table: str, name: str) -> str:
    """The second cell of the row whose first one is `name`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of bleach, about what it carries
        from tensorboard.plugin_util import markdown_to_safe_html  # noqa: PLC0415 - see above

    cells = re.findall(r"<td>(.*?)</td>", markdown_to_safe_html(table), re.DOTALL)
    texts = [html.unescape(_OF_MARKDOWN.sub("", cell)) for cell in cells]
    found: str = texts[texts.index(name) + 1]
    return found
