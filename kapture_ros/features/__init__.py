"""Local features (R2D2), global features (AP-GeM) and their extraction into kapture datasets."""
