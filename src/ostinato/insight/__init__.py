"""What a network learnt and how it learns: gradient flow, memory, gates, diagnosis, pictures."""
