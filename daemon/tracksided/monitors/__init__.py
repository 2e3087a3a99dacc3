"""What the machine is doing: host, memory pressure, disks, GPUs, processes of the ranks."""
