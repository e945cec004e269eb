"""Pictures and pages about experiments, that need nothing but a browser."""
