"""The tasks of this project: what producers call and workers run."""

from __future__ import annotations

from rqstack import task


@task(queue="short-running", timeout=60)
def count_words_at_url(url: str) -> int:
    """Count the words that a web page shows.

    Args:
        url: http or https; without a scheme it means http.

    Returns:
        The number of words by Unicode's word boundaries (UAX #29). A script, a style sheet or a comment shows none.

    Raises:
        PageError: The page cannot be had or is no text: a malformed URL, a refused connection, a status of 400 or
            above, more than 5 redirects, over 5 MB, over 30 seconds, binary content.
    """
    # Here and not above: a producer that imports this module to enqueue needs neither.
    from wordcount.fetch import fetch
    from wordcount.text import count_words, visible_text

    return count_words(visible_text(fetch(url)))
