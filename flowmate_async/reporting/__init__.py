"""The report of a sync, as JSON and as an HTML page: recording, summary, charts and files.

``recorder`` samples a call while it runs, ``summary`` sums up the run's checkpoints, ``charts`` is pure
geometry, ``page`` fills the template, and ``files`` writes. None of them holds a credential.
"""

from flowmate_async.reporting.files import require_report_path as require_report_path
from flowmate_async.reporting.files import write_report as write_report
from flowmate_async.reporting.recorder import recording as recording
