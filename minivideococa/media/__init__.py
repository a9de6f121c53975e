"""Files and texts to arrays: reading videos and images, preprocessing frames, tokenizing texts."""
