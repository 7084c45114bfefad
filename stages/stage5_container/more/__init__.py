"""What stage 5 needs and its story doesn't: each verb, and what a network takes."""
