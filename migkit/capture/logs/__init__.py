"""Foreign sources: one file each turns what other tools wrote into traces."""
