"""Where to look next: one step of EM and of the algorithms that replace it."""
