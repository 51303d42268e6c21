"""Search for the settings of a task: spaces, studies and their pictures."""
