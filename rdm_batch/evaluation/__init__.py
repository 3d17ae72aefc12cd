"""Sets of images to scores, and to what there is to see of them."""
