"""`groundup first`: each piece of the foundations trained and shown, with a page of plots.

`catalog.py` lists the lessons, `material.py` reads what they learn from, `page.py` gathers what they show, `run.py` runs one; the
other files hold the lessons: functions of a page, a material and a pace. What they run is in `foundations/`.
"""
