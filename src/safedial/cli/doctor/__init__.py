"""``safedial doctor``: is this machine at risk, and what should be done?

`look`, `table`, `processes` and `elsewhere` read what the system says, as the records of `facts`. `judge` and
`remedies` decide, and know no I/O. `words`, `report` and `as_json` show it.
"""
