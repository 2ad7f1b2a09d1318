"""Random workflow programs, with which replays are tried: `python -m tests.sdk.programs --help`."""
