"""What stage 4 needs and its story doesn't: other drivers, images from elsewhere, tidying up."""
