"""Online reinforcement learning on the latents of a frozen backbone: worlds, rollouts, PPO and SACfD."""
