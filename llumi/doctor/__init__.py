"""Whether this deployment can do its work: nodes, GPUs, what connects them, the store, versions, clocks, disks, switches."""
