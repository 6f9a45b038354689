"""What feeds a policy: recorded traces, and later live migrations, sweeps and models."""
