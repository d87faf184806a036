"""What is asked of a network, or done to it, once it is trained."""
