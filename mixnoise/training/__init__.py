"""What ``pretrain`` is made of: the loop, its checkpoints, and what several processes agree on."""
