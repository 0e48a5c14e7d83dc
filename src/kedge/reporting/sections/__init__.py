"""The sections of the page: each module has `section(results, level)`, what its template of the same name shows.

`results` are of the newest format, `level` says how much is to be left out (`kedge.reporting.page.LADDER`);
None stands for a section that has nothing to show.
"""
