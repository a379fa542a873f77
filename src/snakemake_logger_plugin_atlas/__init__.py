"""Snakemake's logger `atlas`: how far the studies are, instead of what each job is made of.

What Snakemake itself says stays in its log file. A dry run, `--verbose` and `--printshellcmds` are
answered in Snakemake's own words, as is everything that goes wrong.
"""

import logging
import re
import sys

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

SAID = ("Nothing to be done", "Complete log")
"""How those of Snakemake's remarks begin that are passed on."""
WRONG = (LogEvent.JOB_ERROR, LogEvent.GROUP_ERROR, LogEvent.ERROR)


class LogHandler(LogHandlerBase):
    """Writes to standard error: a line a job, and how far the studies are."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = False
    has_formatter = False
    needs_rulegraph = False

    def __post_init__(self) -> None:
        asked = self.common_settings
        self._plain = asked.dryrun or asked.verbose or asked.printshellcmds
        # Every job's Snakemake loads all logger plugins and uses none of them.
        from barlow_atlas.tools.console import Console

        self._console = Console(sys.stderr)
        self._messages: dict[int, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        if self._plain or event in WRONG or record.levelno >= logging.WARNING:
            self._console.say(self.format(record))
        elif event == LogEvent.JOB_INFO:
            said = vars(record)
            # Files are named after epochs of four digits.
            told = re.sub(r"\bepoch 0+(?=\d)", "epoch ", said["rule_msg"] or said["rule_name"])
            self._messages[said["jobid"]] = told
            if study := dict(said["wildcards"].items()).get("study"):
                self._console.follow(study)
        elif event == LogEvent.JOB_FINISHED:
            self._console.done(self._messages.pop(vars(record)["job_id"], ""))
        elif event is None and (vars(record).get("note") or str(record.msg).startswith(SAID)):
            # A note of the executor: a job goes on after a pre-emption, or was taken over.
            self._console.say(str(record.msg))

    def close(self) -> None:
        self._console.close()
        super().close()
