"""The report page of a run: one HTML file that says what was learned, where it errs, and what to do next."""
