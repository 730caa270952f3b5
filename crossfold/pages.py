"""The templates of the HTML pages."""

import jinja2


def environment() -> jinja2.Environment:
    """Return what renders them: it escapes every value and refuses one that is not given."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader("crossfold"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
