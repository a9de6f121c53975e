"""Run the command line: `python -m minivideococa`, or `minivideococa`.

Nothing else is imported here, so that Ctrl-C ends quietly from the first moment on.
"""


def main() -> int:
    """Return the exit status."""
    try:
        from . import cli
        return cli.main()
    except KeyboardInterrupt:                # while modules are imported
        return 130


if __name__ == "__main__":
    import sys
    sys.exit(main())
