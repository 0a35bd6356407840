# SPDX-License-Identifier: Apache-2.0
"""Run all benchmarks one after the other: ``python -m benchmarks [--quick]``."""

from __future__ import annotations

import argparse
import subprocess
import sys

from benchmarks.harness import ROOT

NAMES = (
    "startup", "losses", "trunk", "network", "training_memory", "volume", "sam_encoder", "sam_training", "self_prompt",
    "desam_decoder", "embedding_store", "desam_training", "embedded_loading",
    "anatomical_embedding", "volume_extraction", "local_correlation", "coarse_field", "register_command",
    "hl_attention", "pretraining_step", "large_lists",
)  # fmt: skip

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of: {', '.join(NAMES)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes that only show that it works")
    parser.add_argument("--threads", help="of each process (default: what torch takes)")
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(NAMES):
        parser.error(f"there is no benchmark {', '.join(sorted(unknown))}; known: {', '.join(NAMES)}")
    more = (["--quick"] if asked.quick else []) + (["--threads", asked.threads] if asked.threads else [])
    # a process each, so that none inherits the memory of another
    failed = [
        name
        for name in asked.names or NAMES
        if subprocess.run([sys.executable, "-W", "ignore", "-m", f"benchmarks.{name}", *more], cwd=ROOT).returncode
    ]
    sys.exit(f"error: failed: {', '.join(failed)}" if failed else 0)
