"""What a deployment of some size takes: hours, memory, disk, network, and what failures cost, before anything is bought."""
