"""Start garbage collection again: the server of steps imports this module last."""

import gc

gc.freeze()  # imported objects stay, so no collection needs to look at them
gc.enable()
