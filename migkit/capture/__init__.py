"""How a migration comes in: recorded from libvirt or a fake domain, or imported from what other tools wrote."""
