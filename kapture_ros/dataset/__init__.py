"""kapture 1.1 datasets: records, cameras, the crash-safe writer and reading."""
