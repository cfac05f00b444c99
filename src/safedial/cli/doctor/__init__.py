"""``safedial doctor``: is this machine at risk, and what should be done?

`look`, `table`, `processes`, `binding` and `rights` read what the system says, as the records of `facts`; `elsewhere`
does so without Linux. `judge` and `remedies` decide, and know no I/O; `freeing` and `remedy` are parts of the latter.
`words`, `who`, `report`, `on_terminal` and `as_json` show it.
"""
