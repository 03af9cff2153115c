"""The human study: raters see a clip and two explanations, blind, and answer questions. No torch, no model.

`items` says what is shown, `assignment` to whom, `store` keeps it in SQLite, `server` shows it, `answers` takes it out
again and `numbers` counts it.
"""
