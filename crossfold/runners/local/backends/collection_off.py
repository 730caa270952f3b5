"""Stop garbage collection: the server of steps imports this module before the slow ones.

Imports make millions of objects and hardly any garbage. Looking for it takes a seventh of the time.
"""

import gc

gc.disable()
