"""What a recurrent network is: cells, the engine that runs them, layers and arrangements."""
