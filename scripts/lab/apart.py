#!/usr/bin/env python3
"""Starts a run in namespaces of its own, which end with it, however that happens."""

import ctypes
import signal
import subprocess
import sys

PR_SET_PDEATHSIG = 1


def run_apart(script, words, limit_s):
    """Python's `script` as the first process there, with these words; its exit status."""
    words = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc",
             sys.executable, str(script), *words]
    return subprocess.run(words, timeout=limit_s, preexec_fn=_die_with_parent).returncode


def _die_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
