"""A published dataset, from its official annotations and its media to lists, records and a report.

python -m jaxvid.data.prepare kinetics400 --source=k400 --out=data/kinetics400

Nothing is downloaded. Annotations become entries (`entries`), of each dataset by a reader of its
own (`catalogue`); one walk of the source (`tree`) finds the media, which are matched by name
(`media`). What is listed, found, missing and broken is counted and set beside the official counts
(`counts`, `report`).
"""

from jaxvid.data.prepare.run import prepare as prepare
