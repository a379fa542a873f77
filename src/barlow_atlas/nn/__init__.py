"""What a step computes with: views, networks, optimizers, random numbers, the device."""
