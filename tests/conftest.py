"""What holds for every test, and for every process that one starts."""

import os

# Two tests are at work on the machine's cores: a thread of torch that waits must not spin.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
