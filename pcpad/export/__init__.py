"""Networks in their padding mode for use elsewhere: written by ``pcpad export``, read by `pcpad.load`."""
