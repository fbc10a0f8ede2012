"""From topics or a bag to a dataset: sessions, the health report."""
