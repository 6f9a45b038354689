"""A real live migration on one machine: two libvirt daemons, and a small guest with a known dirty rate."""
