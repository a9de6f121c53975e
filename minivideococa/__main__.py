"""Run the command line: `python -m minivideococa`, or `minivideococa`.

Nothing else is imported here, so that Ctrl-C ends quietly from the first moment on.
"""


def main() -> int:
    """Return the exit status."""
    try:
        import os
        import signal
        from importlib import import_module

        handled = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not where Ctrl-C is ignored
        if handled:  # extension modules turn a KeyboardInterrupt into an ImportError
            signal.signal(signal.SIGINT, lambda *_: os._exit(130))
        import_module("numpy")
        cli = import_module(".cli", __package__)
        kernels = import_module(".model.kernels", __package__)
        if handled:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        kernels.keep_freed_memory()  # the process is this program's own: the one place where it is tuned
        status: int = cli.main()
        return status
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    import sys

    sys.exit(main())
