"""One task, which tells the version of the library that it was run with."""

import toolz

from rqstack import task


@task(queue="newer")
def library() -> str:
    """The version of toolz."""
    return str(toolz.__version__)
