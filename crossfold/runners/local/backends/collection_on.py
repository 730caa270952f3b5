"""Start garbage collection again: the server of steps imports this module last."""

import gc

gc.enable()
