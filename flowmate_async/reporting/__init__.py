"""The report of a sync, as JSON and as a page for people: what is recorded, summed up, drawn and written.

``recorder`` watches a call while it goes on, ``summary`` sums up the run's checkpoints, ``charts`` are pure
geometry, ``page`` fills the template, ``files`` writes. None of it holds a credential.
"""

from flowmate_async.reporting.files import require_report_path as require_report_path
from flowmate_async.reporting.files import write_report as write_report
from flowmate_async.reporting.recorder import recording as recording
