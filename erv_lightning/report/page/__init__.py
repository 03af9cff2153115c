"""The run report: everything that runs left behind, as one page that a browser opens without a network.

The way of the data: `reading` loads what runs left, `rows` puts completions into columns, `verdicts` has sentences
read, `clips` says where clips are, `sections` draws, `payload` puts all that together, `write` makes the page of it.
The page itself is in `assets/`.
"""
