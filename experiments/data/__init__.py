"""Images: read, drawn, cropped and batched."""
