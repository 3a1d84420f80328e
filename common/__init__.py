"""What the jobs share: configs, run directories, console, scheduling of runs."""

import os

from common.allocator import keep_freed_memory

# Threads of a small model that wait for each other by spinning are 10 to 40 times slower once anything else
# runs on the machine (docs/decisions.md). OpenMP reads this when torch is imported, which is later.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
keep_freed_memory()
