"""``python -m deedsr.cli``: the same as ``deedsr``."""

import runpy

if __name__ == "__main__":
    runpy.run_module("deedsr.cli.main", run_name="__main__", alter_sys=True)
