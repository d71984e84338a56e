"""The log as one table: ``RUN/logs/csv/metrics.csv``, a row per event."""

from __future__ import annotations

import csv

from hubtool.records.log import Event
from hubtool.tracking.sinks import Place

COLUMNS = ("global_step", "epoch", "kind", "split", "tag", "value", "path", "sha256")


class CsvSink:
    """UTF-8, a header line, ``.`` as the decimal point, shortest exact floats; what is absent is empty."""

    def __init__(self, place: Place) -> None:
        place.directory.mkdir(parents=True, exist_ok=True)
        self.path = place.directory / "metrics.csv"
        self._stream = self.path.open("w", newline="", encoding="utf-8")
        self._rows = csv.writer(self._stream, lineterminator="\n")
        self._rows.writerow(COLUMNS)

    def write(self, event: Event) -> None:
        self._rows.writerow("" if (v := getattr(event, name)) is None else v for name in COLUMNS)

    def flush(self) -> None:
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()
