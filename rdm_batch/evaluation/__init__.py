"""From sets of images to their scores, and to what there is to look at beside them."""
