"""What stage 2 needs and its story doesn't: devices, and who has which address."""
