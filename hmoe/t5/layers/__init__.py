"""T5 layers: the mixture, attention by experts, and checks of their layout."""
