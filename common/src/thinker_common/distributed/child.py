"""The process of one rank: runs a module as `python -m` would, and lets its worker see where it is.

`python -m <this package>.child MODULE ARGUMENTS`, started by `worker`. SIGUSR1 prints the stacks of all threads.
"""

import faulthandler
import runpy
import signal
import sys

from .exit_codes import EXIT_SAVED
from .phases import begin, fail, report_movement


def main() -> None:
    module, *arguments = sys.argv[1:]
    faulthandler.enable()  # the stack of a crash inside a library
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    report_movement()
    sys.argv = [module, *arguments]
    code = None
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException:
        fail()
        raise
    if code not in (None, 0, EXIT_SAVED):
        fail()
        sys.exit(code)
    if "torch.distributed" in sys.modules:
        from .process_group import leave

        leave()
    begin("exit")
    sys.exit(code)


if __name__ == "__main__":
    main()
