"""The command line: ``deedsr restore``, ``compare``, ``diagnose``, ``info``, ``export``, ``convert``."""
