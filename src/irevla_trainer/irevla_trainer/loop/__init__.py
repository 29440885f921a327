"""The iRe-VLA loop (Algorithm 1): supervised fine-tuning and online reinforcement learning, task by task."""
