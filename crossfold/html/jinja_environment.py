"""Create the Jinja environment of the HTML pages."""

import jinja2


def template_environment(room: str) -> jinja2.Environment:
    """Create the environment for the templates in `room`, such as "crossfold.report".

    It adds the shared layout, escapes every value and refuses one that is missing.
    """
    return jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(room), jinja2.PackageLoader(__package__)]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
