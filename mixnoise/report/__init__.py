"""One HTML file about a run on a table, with everything in it."""

from mixnoise.report.page import write_report as write_report
