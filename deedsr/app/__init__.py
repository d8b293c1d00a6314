"""The page of ``deedsr app``, which needs the extra `app`."""
