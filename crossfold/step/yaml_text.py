"""Parse YAML that people write."""

from typing import Any

import yaml


def parse_yaml(text: str) -> Any:
    """Parse one YAML document.

    Raises:
        ValueError: the text is not YAML; the message says why and where.
    """
    try:
        return yaml.safe_load(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # a value that isn't of its tag, such as `!!timestamp tomorrow`
        raise ValueError("a value does not have the form that its tag names") from error
